"""Training on unperturbed images."""

from jaxrobust.objectives.objective import CROSS_ENTROPY, Criterion, LossOutput, Objective


def standard(criterion: Criterion) -> Objective:
    """The criterion of the images as they are."""

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        logits, batch_stats = forward(batch_stats, images)
        plain = criterion.trained(logits, labels, knobs)
        return LossOutput(knobs.weight_natural[labels] * plain, plain, logits, logits, batch_stats)

    return Objective(loss, knobs=(*CROSS_ENTROPY, "weight_natural"), sees_natural=True)
