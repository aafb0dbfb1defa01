"""Class statistics: sums over images, class by class, collected while a model is trained or observed.

    count              [C]     images
    correct            [C]     those classified correctly, as trained on: adversarial images if there are any
    loss               [C]     the objective's loss, before class weights
    natural_correct    [C]     images classified correctly without an attack
    margin             [C]     true probability minus the largest wrong one, of the images trained on
    confusion          [C, C]  images of class i, as trained on, predicted as j
    shrunk_confusion   [C, C]  the same with the true logit lowered by `SHRINKAGE` of its size
    probability        [C, C]  probability of class j of images of class i, as trained on
    steps_withstood    [C]     iterates of the attack that are classified correctly, the start included, the last not

Every training collects those in `ALWAYS`; remedies name the others that they need.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks import losses

ALWAYS = ("count", "correct", "loss")
SHRINKAGE = 0.1  # as Jin et al. 2025


class Seen(NamedTuple):
    """The results for a batch: labels [B], -1 for padding, which is not counted; logits [B, C] of the images trained
    on; losses [B] before class weights; natural_logits [B, C] of the unperturbed images, if the objective computes
    them; and correct_steps [B], iterates classified correctly, if there is an attack.
    """

    labels: jax.Array
    logits: jax.Array
    losses: jax.Array
    natural_logits: jax.Array | None = None
    correct_steps: jax.Array | None = None


def _of_class(seen: Seen, values):
    """Sums [C] of values [B], or [C, K] of values [B, K], over the images of each class."""
    # A sum, not a scatter-add: on a GPU the order of a scatter-add, and so its rounding, is not fixed.
    member = seen.labels[:, None] == jnp.arange(seen.logits.shape[-1])[None]
    if values.ndim == 1:
        return jnp.where(member, values[:, None], 0.0).sum(0)
    return jnp.einsum("bc,bk->ck", member.astype(values.dtype), values, precision="highest")


def _predicted(logits):
    return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])


def _shrunk(seen):
    true = losses.is_class(seen.logits, seen.labels)
    return jnp.where(true, seen.logits - SHRINKAGE * jnp.abs(seen.logits), seen.logits)


_COUNTED = ("count", "correct", "natural_correct", "confusion", "shrunk_confusion", "steps_withstood")
_FUNCTIONS = {
    "count": lambda seen: _of_class(seen, jnp.ones(len(seen.labels))),
    "correct": lambda seen: _of_class(seen, (seen.logits.argmax(-1) == seen.labels).astype(jnp.float32)),
    "loss": lambda seen: _of_class(seen, seen.losses),
    "natural_correct": lambda seen: _of_class(
        seen, (seen.natural_logits.argmax(-1) == seen.labels).astype(jnp.float32)
    ),
    "margin": lambda seen: _of_class(seen, -losses.softmax_margin(seen.logits, jnp.maximum(seen.labels, 0))),
    "confusion": lambda seen: _of_class(seen, _predicted(seen.logits)),
    "shrunk_confusion": lambda seen: _of_class(seen, _predicted(_shrunk(seen))),
    "probability": lambda seen: _of_class(seen, jax.nn.softmax(seen.logits, axis=-1)),
    "steps_withstood": lambda seen: _of_class(seen, seen.correct_steps.astype(jnp.float32)),
}
_MATRICES = ("confusion", "shrunk_confusion", "probability")
NAMES = tuple(_FUNCTIONS)


def zeros(names, num_classes: int) -> dict:
    """The statistics of zero images: `ALWAYS` and those named."""
    return {
        name: jnp.zeros(
            (num_classes, num_classes) if name in _MATRICES else num_classes,
            jnp.int32 if name in _COUNTED else jnp.float32,
        )
        for name in _all(names)
    }


def of_batch(names, seen: Seen) -> dict:
    """The statistics of a batch, `ALWAYS` and those named.

    All are float32, so that they can be summed together with the gradients. Counts are exact below 2^24 images.
    """
    return {name: _FUNCTIONS[name](seen) for name in _all(names)}


def add(total: dict, batch: dict) -> dict:
    """The total plus the statistics of a batch, in the types of the total."""
    return jax.tree.map(lambda old, new: old + new.astype(old.dtype), total, batch)


def _all(names):
    return tuple(dict.fromkeys((*ALWAYS, *names)))
