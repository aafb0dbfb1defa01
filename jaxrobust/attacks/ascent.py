"""What the attacks that maximise a loss share: the choice of a target class, and the evaluation of a point."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.attack import Examples


class Point(NamedTuple):
    """Images [B, H, W, C], and there the loss [B], its gradient [B, H, W, C] and the margin [B] of the model.

    Where the logits are NaN the model has not classified the image, so its margin there is set to infinity. The loss is
    set to minus infinity and the gradient to 0, so that the attack does not follow NaN and continues.
    """

    images: jax.Array
    loss: jax.Array
    gradient: jax.Array
    margin: jax.Array


class Runs:
    """What attacks with `restarts` and `targets` share: number of runs, cost, and targets."""

    restarts: int  # starts, for each target
    # 0 for an untargeted attack; k: attack towards each of the k most likely wrong classes of the clean image, at most
    # the number of classes less one. Run r aims at the class of rank r modulo k.
    targets: int
    step_passes = 2.0

    @property
    def runs(self) -> int:
        return self.restarts * max(self.targets, 1)

    @property
    def start_passes(self) -> float:
        return 3.0 if self.targets else 2.0

    def targets_of(self, logits_fn, examples: Examples, run):
        """The wrong class [B] that run number `run` aims at, see `likely_wrong`; None in an untargeted attack."""
        if not self.targets:
            return None
        return likely_wrong(logits_fn(examples.images), examples.labels, run % self.targets, self.targets)


def evaluate(logits_fn, loss, images, labels, targets=None) -> Point:
    """One forward and one backward pass. `loss` also takes the targets [B] unless they are None."""

    def total(images):
        logits = logits_fn(images)
        values = loss(logits, labels) if targets is None else loss(logits, labels, targets)
        return values.sum(), (values, losses.margin(logits, labels))

    gradient, (values, margin) = jax.grad(total, has_aux=True)(images)
    return Point(
        images,
        jnp.where(jnp.isnan(values), -jnp.inf, values),
        jnp.nan_to_num(gradient),
        jnp.where(jnp.isnan(margin), jnp.inf, margin),
    )


def margin(logits_fn, images, labels):
    """The margin loss [B]; infinite where it is NaN, since the model has then not classified the image."""
    return jnp.nan_to_num(losses.margin(logits_fn(images), labels), nan=jnp.inf)


def likely_wrong(logits, labels, rank, count):
    """The wrong class [B] of largest logit for rank 0, of the second largest for rank 1, and so on.

    The rank, which may be traced, is less than `count`; a ValueError if there are fewer than `count` wrong classes.
    """
    wrong = logits.shape[-1] - 1
    if count > wrong:
        raise ValueError(f"{count} targets, but {wrong + 1} classes have only {wrong} wrong ones")
    scores = jnp.where(losses.is_class(logits, labels), -jnp.inf, jnp.nan_to_num(logits))
    return jnp.take(jax.lax.top_k(scores, count)[1], rank, axis=1)


def choose(where, new, old):
    """Rows of `new` where `where` [B], else of `old`; both pytrees of arrays [B, ...]."""
    return jax.tree.map(lambda a, b: jnp.where(threats.per_example(where, a), a, b), new, old)
