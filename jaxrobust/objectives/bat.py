"""Training on two points of the path of the attack, one on each side of the boundary (BAT, Sun et al. 2023)."""

import dataclasses

import jax.numpy as jnp

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Path
from jaxrobust.objectives.objective import ADVERSARIAL, Criterion, LossOutput, Objective, confused, near


def bat(criterion: Criterion, beta: float) -> Objective:
    """CE(x_last) + beta KL(p(x) || p(x_first)) + KL(p(x_last) || u) + KL(p(x_first) || u), u uniform.

    x_last is the last iterate that is classified correctly, x_first is the iterate one step after the first
    misclassified iterate.
    """

    def perturb(attack, logits_fn, images):
        found = attack(losses.kl_from(logits_fn(images)))
        last, first, stopped, _ = found.path
        first = jnp.where(threats.per_example(stopped, images), first, found.images)
        return found._replace(images=first, path=last)

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        natural_logits, batch_stats = forward(batch_stats, images)
        last_logits, batch_stats = forward(batch_stats, attacked.path)
        logits, batch_stats = forward(batch_stats, attacked.images)
        inner = criterion.trained(last_logits, labels, knobs) + _certainty(last_logits)
        outer = beta * losses.kl_from(natural_logits)(logits, labels)
        weighted = knobs.weight_natural[labels] * inner
        weighted += knobs.weight_robust[labels] * (knobs.beta_scale[labels] * outer + _certainty(logits))
        weighted += confused(criterion.trained(logits, labels, knobs), logits, labels, knobs)
        return LossOutput(weighted, inner + outer + _certainty(logits), logits, natural_logits, batch_stats)

    return Objective(
        loss,
        perturb,
        knobs=(*ADVERSARIAL, "weight_natural", "beta_scale"),
        passes=9,
        attack_passes=1,
        beta=beta,
        sees_natural=True,
        vary=lambda pgd: dataclasses.replace(pgd, start=near, path=BOUNDARY),
    )


def _init(images):
    nowhere = jnp.zeros(len(images), bool)
    return images, images, nowhere, nowhere


def _update(value, points, logits, labels):
    last, first, stopped, wrong = value
    # One step after the first mistake: `wrong` refers to the points before the current ones.
    first = jnp.where(threats.per_example(stopped, points), first, points)
    stopped |= wrong
    correct = logits.argmax(-1) == labels
    last = jnp.where(threats.per_example(correct, points), points, last)
    return last, first, stopped, wrong | ~correct


BOUNDARY = Path(_init, _update)


def _certainty(logits):
    """KL(softmax(logits) || uniform) [B]: log C minus the entropy."""
    return losses.kl_from(logits)(jnp.zeros_like(logits), None)
