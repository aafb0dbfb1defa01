"""Training on adversarial images alone (Madry et al. 2018), https://arxiv.org/abs/1706.06083.

Also with one step from a random start (Wong et al. 2020), whose step size is a setting of the attack.
"""

from jaxrobust.objectives.objective import Criterion, LossOutput, Objective, confused


def pgd_at(criterion: Criterion) -> Objective:
    """The criterion of adversarial images, which maximise it."""

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        logits, batch_stats = forward(batch_stats, attacked.images)
        plain = criterion.trained(logits, labels, knobs)
        weighted = knobs.weight_robust[labels] * plain + confused(plain, logits, labels, knobs)
        return LossOutput(weighted, plain, logits, None, batch_stats)

    return Objective(loss, lambda attack, logits_fn, images: attack(criterion.attacked))
