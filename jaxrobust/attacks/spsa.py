"""SPSA: ascent along a gradient estimated from function values alone (Uesato et al. 2018).

    attack = Spsa(norm="linf")
    state = attack.start(logits_fn, examples, run)
    state = attack.step(logits_fn, examples, state, iteration)   # `samples` forward passes, and one at the new point

The gradient in Adam is replaced by an estimate: the mean slope of the margin loss along random directions of +-1 (Spall
1992). Each example has its own moments. The sampled points may be outside of ball and box by `delta`; the iterates are
not.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks import ascent, losses, threats
from jaxrobust.attacks.attack import fold_in

_DECAY = (0.9, 0.999)  # of Adam's two moments
_TINY = 1e-8


class SpsaState(NamedTuple):
    adversarial: jax.Array  # [B, H, W, C], the iterate of largest margin so far
    margin: jax.Array  # [B], its margin loss
    iterate: jax.Array  # [B, H, W, C]
    mean: jax.Array  # [B, H, W, C], of the gradients
    square: jax.Array  # [B, H, W, C], of the squared gradients

    @property
    def is_adversarial(self):
        return self.margin > 0


@dataclasses.dataclass(frozen=True)
class Spsa(ascent.Runs):
    """Projected Adam on estimated gradients of the margin loss, from a random point of the ball."""

    norm: str  # "linf" or "l2". In L1 the projection would undo a step that changes all pixels.
    iterations: int = 100  # steps of Adam
    samples: int = 128  # forward passes of an estimate, two for each direction
    delta: float = 0.01  # distance of the sampled points from the iterate in each pixel, in pixel units
    learning_rate: float = 0.01  # of Adam, in pixel units
    restarts: int = 1  # runs, each with its own random numbers
    # how many directions are evaluated in one forward pass. The batch of that pass is twice this number times the
    # number of examples. It bounds the memory and does not change the result.
    directions_at_once: int = 8

    targets, start_passes = 0, 1.0

    def __post_init__(self):
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"norm {self.norm!r} is neither 'linf' nor 'l2'")
        if self.samples < 1 or self.samples % (2 * self.directions_at_once):
            raise ValueError(f"samples {self.samples} must be a multiple of twice {self.directions_at_once} directions")

    @property
    def step_passes(self) -> float:
        return self.samples + 1.0

    def start(self, logits_fn, examples, run) -> SpsaState:
        """A random point. The keys differ from run to run, so the number of the run is not needed."""
        keys = fold_in(examples.keys, 0)
        iterate = threats.random_start(threats.NORMS[self.norm], keys, examples.images, examples.radius)
        zeros = jnp.zeros_like(iterate)
        return SpsaState(iterate, ascent.margin(logits_fn, iterate, examples.labels), iterate, zeros, zeros)

    def step(self, logits_fn, examples, state, iteration) -> SpsaState:
        """One step of Adam."""
        keys = fold_in(examples.keys, iteration + 1)
        gradient = self.gradient(logits_fn, examples.labels, keys, state.iterate)
        first, second = _DECAY
        mean = first * state.mean + (1 - first) * gradient
        square = second * state.square + (1 - second) * jnp.square(gradient)
        unbiased_mean, unbiased_square = (
            moment / (1 - decay ** (iteration + 1)) for decay, moment in ((first, mean), (second, square))
        )
        moved = state.iterate + self.learning_rate * unbiased_mean / (jnp.sqrt(unbiased_square) + _TINY)
        iterate = threats.project(threats.NORMS[self.norm], examples.images, moved, examples.radius)
        margin = ascent.margin(logits_fn, iterate, examples.labels)
        worst = ascent.choose(margin > state.margin, (iterate, margin), (state.adversarial, state.margin))
        return SpsaState(*worst, iterate, mean, square)

    def gradient(self, logits_fn, labels, keys, images):
        """Estimate [B, H, W, C] of the margin's gradient: the mean over directions v of v times the slope along v.

        Direction number i of an example is drawn from `fold_in(key, i)` with its key of `keys` [B].
        """
        batch, directions = len(images), self.samples // 2
        groups = jnp.arange(directions).reshape(-1, self.directions_at_once)
        both = jnp.repeat(labels, 2 * self.directions_at_once)

        def draw(key, number):
            return jax.random.rademacher(jax.random.fold_in(key, number), images.shape[1:], images.dtype)

        draw_all = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))

        def add(total, numbers):
            v = draw_all(keys, numbers)  # [B, directions_at_once, H, W, C]
            points = images[:, None, None] + self.delta * jnp.stack([v, -v], axis=2)
            margins = losses.margin(logits_fn(points.reshape(-1, *images.shape[1:])), both).reshape(batch, -1, 2)
            slope = (margins[..., 0] - margins[..., 1]) / (2 * self.delta)
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0)  # such a slope carries no information
            return total + (slope[..., None, None, None] * v).sum(1), None

        return jax.lax.scan(add, jnp.zeros_like(images), groups)[0] / directions
