"""Misclassification-aware adversarial training (MART, Wang et al. 2020)."""

import jax
import jax.numpy as jnp

from jaxrobust.attacks import losses
from jaxrobust.objectives.objective import ADVERSARIAL, Criterion, LossOutput, Objective, confused, from_near
from jaxrobust.objectives.pgd_at import pgd_at


def mart(criterion: Criterion, beta: float) -> Objective:
    """-log p_y(x') - log(1 - max_{j != y} p_j(x')) + beta KL(p(x) || p(x')) (1 - p_y(x)).

    x' maximises the cross-entropy. The knob `weight_natural` is not used.
    """

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        natural_logits, batch_stats = forward(batch_stats, images)
        logits, batch_stats = forward(batch_stats, attacked.images)
        true = losses.is_class(logits, labels)
        rival = losses.is_class(logits, jnp.where(true, -jnp.inf, logits).argmax(-1))
        # Computed from the other logits, since 1 - p rounds to 0 if p is near 1.
        log_others = jax.nn.logsumexp(jnp.where(rival, -jnp.inf, logits), axis=-1) - jax.nn.logsumexp(logits, axis=-1)
        boosted = criterion.trained(logits, labels, knobs) - log_others
        doubt = 1 - jnp.where(true, jax.nn.softmax(natural_logits), 0.0).sum(-1)
        divergence = beta * losses.kl_from(natural_logits)(logits, labels) * doubt
        weighted = knobs.weight_robust[labels] * (boosted + knobs.beta_scale[labels] * divergence)
        weighted += confused(boosted, logits, labels, knobs)
        return LossOutput(weighted, boosted + divergence, logits, natural_logits, batch_stats)

    options = {"passes": 6, "beta": beta, "sees_natural": True, "vary": from_near}
    return Objective(loss, pgd_at(criterion).perturb, (*ADVERSARIAL, "beta_scale"), **options)
