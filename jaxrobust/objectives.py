"""Objectives of adversarial training, as per-example losses.

An objective has two parts. `perturb` makes what the loss needs beside the images (for PGD adversarial training the
adversarial images); nothing is differentiated with respect to the parameters there. `loss` is what is differentiated.

    perturb(attack, logits_fn, images, labels) -> perturbed
        attack(loss, images, labels) -> adversarial images; loss(logits, labels) -> [B] is what it climbs
    loss(forward, batch_stats, images, perturbed, labels, knobs) -> LossOutput
        forward(batch_stats, images) -> (logits, new batch_stats), batch norm in train mode

Class knobs act here and on the radius of `attack` (steps.py): with neutral knobs they change nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from jaxrobust.attacks import losses


class LossOutput(NamedTuple):
    """Losses [B] after class weights, logits [B, C] of the images trained on, and batch statistics after the step."""

    losses: jax.Array
    logits: jax.Array
    batch_stats: dict


class Objective(NamedTuple):
    """See the module's docstring."""

    perturb: Callable
    loss: Callable


def cross_entropy(logits, labels, knobs, label_smoothing):
    """Cross-entropy [B] of the logits after the knobs `log_prior` and `margin`, against smoothed labels."""
    true = jax.nn.one_hot(labels, logits.shape[-1])
    adjusted = logits + knobs.log_prior[None] - knobs.margin[None] * true
    return optax.softmax_cross_entropy(adjusted, optax.smooth_labels(true, label_smoothing))


def standard(label_smoothing: float) -> Objective:
    """Training on the images as they are."""

    def loss(forward, batch_stats, images, perturbed, labels, knobs):
        logits, batch_stats = forward(batch_stats, images)
        weights = knobs.weight_natural[labels]
        return LossOutput(weights * cross_entropy(logits, labels, knobs, label_smoothing), logits, batch_stats)

    return Objective(perturb=lambda attack, logits_fn, images, labels: (), loss=loss)


def pgd_at(label_smoothing: float) -> Objective:
    """Training on adversarial images alone (Madry et al. 2018). The attack climbs the plain cross-entropy."""

    def loss(forward, batch_stats, images, adversarial, labels, knobs):
        logits, batch_stats = forward(batch_stats, adversarial)
        weights = knobs.weight_robust[labels]
        return LossOutput(weights * cross_entropy(logits, labels, knobs, label_smoothing), logits, batch_stats)

    return Objective(
        perturb=lambda attack, logits_fn, images, labels: attack(losses.cross_entropy, images, labels), loss=loss
    )


_OBJECTIVES = {"standard": standard, "pgd_at": pgd_at}
NAMES = tuple(_OBJECTIVES)


def create(name: str, *, label_smoothing: float = 0.0) -> Objective:
    """The objective of that name, one of `NAMES`."""
    return _OBJECTIVES[name](label_smoothing)
