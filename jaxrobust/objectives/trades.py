"""TRADES (Zhang et al. 2019), https://arxiv.org/abs/1901.08573: accuracy on images, and agreement around them."""

from jaxrobust.attacks import losses
from jaxrobust.objectives.objective import ADVERSARIAL, Criterion, LossOutput, Objective, confused, from_near

CLIMBS = ("divergence", "cross_entropy")


def trades(criterion: Criterion, beta: float, climb: str) -> Objective:
    """CE(x) + beta KL(p(x) || p(x')), where x' maximises the divergence.

    With `climb` "cross_entropy", x' maximises the cross-entropy, as in RoBal. An attack on the divergence continues in
    the direction of its initial noise, towards the decision boundary or away from it, as in the published method.
    """

    def perturb(attack, logits_fn, images):
        return attack(criterion.attacked if climb == "cross_entropy" else losses.kl_from(logits_fn(images)))

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        natural_logits, batch_stats = forward(batch_stats, images)
        logits, batch_stats = forward(batch_stats, attacked.images)
        natural = criterion.trained(natural_logits, labels, knobs)
        divergence = beta * losses.kl_from(natural_logits)(logits, labels)
        weighted = knobs.weight_natural[labels] * natural
        weighted += knobs.weight_robust[labels] * knobs.beta_scale[labels] * divergence
        weighted += confused(criterion.trained(logits, labels, knobs), logits, labels, knobs)
        return LossOutput(weighted, natural + divergence, logits, natural_logits, batch_stats)

    knobs = (*ADVERSARIAL, "weight_natural", "beta_scale")
    plain = Objective(loss, perturb, knobs, passes=6, beta=beta, sees_natural=True)
    return plain if climb == "cross_entropy" else plain._replace(attack_passes=1, vary=from_near)
