"""What an objective of adversarial training is, and what its files share.

An objective has two parts, and each sees only what it is given:

    perturb(attack, logits_fn, images) -> Attacked
        attack(loss) -> Attacked, the attack of the training as a function of what it maximises, loss(logits, labels)
        -> [B]. No gradient flows through it, and the parameters of `logits_fn` are those before the update.
    loss(forward, batch_stats, images, attacked, labels, knobs) -> LossOutput
        forward(batch_stats, images) -> (logits, new batch_stats); this is differentiated.

Class knobs act on the training loss here, and on the radius of the attack (training/step.py). Neutral knobs have no
effect. Knobs of the cross-entropy change the training loss only; attacks maximise plain losses.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.attacks import losses, threats
from jaxrobust.remedies.knobs import ClassKnobs

_SMALL_NOISE = 0.001  # of the start of attacks on a divergence, whose gradient is 0 at the image itself (TRADES)

# Class knobs of the cross-entropy; and those of training on adversarial images, with those of the attack.
CROSS_ENTROPY = ("margin", "log_prior", "logit_scale", "focusing", "sampling")
ADVERSARIAL = (*CROSS_ENTROPY, "radius_scale", "target_logit", "weight_robust", "confusion_weight")


class LossOutput(NamedTuple):
    """The loss of a batch."""

    losses: jax.Array  # [B], with class weights; these are minimised
    unweighted: jax.Array  # [B], without class weights
    logits: jax.Array  # [B, C] of the images trained on: the adversarial images, if the objective attacks
    natural_logits: jax.Array | None  # [B, C] of the unperturbed images; None if the objective does not use them
    batch_stats: dict  # batch statistics after the step


class Objective(NamedTuple):
    """See the module's docstring."""

    loss: Callable  # see there
    perturb: Callable | None = None  # see there; None for training on unperturbed images
    knobs: tuple[str, ...] = ADVERSARIAL  # names of the class knobs that it uses, including those of its attack
    passes: int = 3  # arithmetic of the loss and its gradient, in forward passes, without the attack
    attack_passes: int = 0  # additional forward passes of the attack, besides its steps
    beta: float = 0.0  # trade-off between its two losses; 0 if there is none
    sees_natural: bool = False  # whether it uses the unperturbed images
    vary: Callable = lambda pgd: pgd  # pgd.Pgd as configured -> the one it attacks with, for example from another start
    # function that computes class weights from the current batch, see remedies/in_batch.py; or None.
    in_batch: Callable | None = None
    # 0, or the number of updates on each batch; their gradients also update the perturbation of the images. `perturb`
    # is then for images that are not trained on.
    replays: int = 0

    @property
    def attacks(self) -> bool:
        """Whether it attacks before each update."""
        return self.perturb is not None and not self.replays


class Criterion(NamedTuple):
    """The loss of a classification, per example; the cross-entropy, or the user's own in its place."""

    attacked: Callable  # (logits, labels) -> [B], what attacks maximise
    trained: Callable  # (logits, labels, knobs) -> [B], what training minimises


def criterion(label_smoothing: float = 0.0, loss: Callable | None = None) -> Criterion:
    """The cross-entropy, see `cross_entropy`; or `loss`: (logits, labels) -> [B], of logits changed by the knobs."""
    if loss is None:
        return Criterion(
            losses.cross_entropy, lambda logits, labels, knobs: cross_entropy(logits, labels, knobs, label_smoothing)
        )

    def trained(logits, labels, knobs):
        adjusted = _adjusted(logits, labels, knobs)
        return _focused(loss(adjusted, labels), adjusted, labels, knobs)

    return Criterion(loss, trained)


def cross_entropy(logits, labels, knobs: ClassKnobs, label_smoothing: float):
    """Cross-entropy [B] with smoothed labels, of the logits changed by `logit_scale`, `log_prior` and `margin`.

    It is multiplied by (1 - p_true)^g, the factor of the focal loss (Lin et al. 2017) in its softmax form, where g is
    the knob `focusing`.
    """
    adjusted = _adjusted(logits, labels, knobs)
    true = jax.nn.one_hot(labels, logits.shape[-1])
    plain = optax.softmax_cross_entropy(adjusted, optax.smooth_labels(true, label_smoothing))
    return _focused(plain, adjusted, labels, knobs)


def _adjusted(logits, labels, knobs):
    scaled = logits if knobs.logit_scale is None else knobs.logit_scale[None] * logits
    return scaled + knobs.log_prior[None] - knobs.margin[None] * jax.nn.one_hot(labels, logits.shape[-1])


def _focused(plain, adjusted, labels, knobs):
    if knobs.focusing is None:
        return plain
    # log(1 - p) is computed from the other logits, since 1 - p rounds to 0 if p is near 1.
    others = jax.nn.logsumexp(jnp.where(losses.is_class(adjusted, labels), -jnp.inf, adjusted), axis=-1)
    log_wrong = others - jax.nn.logsumexp(adjusted, axis=-1)
    return jnp.exp(knobs.focusing[labels] * log_wrong) * plain


def confused(values, logits, labels, knobs: ClassKnobs):
    """The losses [B] times the knob `confusion_weight`'s entry for prediction and label; the entry is a constant."""
    if knobs.confusion_weight is None:
        return 0.0
    return knobs.confusion_weight[logits.argmax(-1), labels] * values


def from_near(pgd):
    """The `vary` of attacks that start `near` the image."""
    return dataclasses.replace(pgd, start=near)


def near(norm, keys, images, radius):
    """A starting point so close to the image that it does not depend on the radius; the image itself for radius 0."""
    del norm
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return images + jnp.where(threats.per_example(radius, images) > 0, _SMALL_NOISE * noise, 0.0)
