"""Projected gradient descent (Madry et al. 2018), for training, `Pgd`, and for evaluation, `PgdAttack`.

An attack sees the model as `logits_fn(images [B, H, W, C]) -> logits [B, C]` and nothing else. It is a composition of a
norm ball (threats.py), a loss (losses.py) and a loop. That of training is in one program:

    attack = Pgd(norm=threats.NORMS["linf"], steps=10)
    adversarial = attack(logits_fn, losses.cross_entropy, images, labels, keys, radius, step_size)

The length of the loop is static: a loop of unknown length would make a GPU wait for the host at every step. Gradients
are taken with respect to the images alone, and none flows through the result.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.attack import Victims

LOOP = "attack_loop"  # what the loop over steps is called in compiled programs


@dataclasses.dataclass(frozen=True)
class Pgd:
    """`steps` ascent steps from each of `restarts` starting points.

    Attributes:
        norm: the ball and the direction of a step.
        steps: number of steps, and so of gradients, per start.
        restarts: number of starts.
        random_start: start at a random point of the ball instead of the image itself.
        keep_worst: return the iterate with the largest margin loss among the image itself and all iterates of all
            starts, so that no success is lost to a later step, at two more forward passes. Otherwise the last iterate
            of the only start, as adversarial training uses it.
    """

    norm: threats.Norm
    steps: int
    restarts: int = 1
    random_start: bool = True
    keep_worst: bool = False

    def __post_init__(self):
        if self.restarts > 1 and not self.keep_worst:
            raise ValueError("several restarts need keep_worst, else all but the last are wasted")

    def __call__(self, logits_fn, loss, images, labels, keys, radius, step_size):
        """Adversarial images.

        Args:
            logits_fn: images -> logits [B, C].
            loss: (logits, labels) -> [B], what is climbed.
            images: [B, H, W, C] float32 in [0, 1].
            labels: [B] int.
            keys: [B] PRNG keys, one per example, so that a result does not depend on the batch it was computed in.
            radius, step_size: [B] in pixel units.
        """

        def step(adversarial):
            """One ascent step; also the logits at the point it started from."""

            def total_loss(adversarial):
                logits = logits_fn(adversarial)
                return loss(logits, labels).sum(), logits

            gradient, logits = jax.grad(total_loss, has_aux=True)(adversarial)
            moved = adversarial + threats.per_example(step_size, images) * self.norm.direction(gradient)
            return threats.project(self.norm, images, moved, radius), logits

        def start(restart):
            if not self.random_start:
                return images
            restart_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, restart)
            return threats.random_start(self.norm, restart_keys, images, radius)

        def worse(worst, candidate, logits):
            return worse_of(worst, candidate, logits, labels)

        @jax.named_scope(LOOP)
        def loop(body, carry):
            return jax.lax.scan(body, carry, length=self.steps)[0]

        def last_iterate():
            return loop(lambda x, _: (step(x)[0], None), start(0))

        def worst_iterate():
            def ascend(carry, _):
                adversarial, worst = carry
                moved, logits = step(adversarial)
                return (moved, worse(worst, adversarial, logits)), None

            def run(worst, restart):
                adversarial, worst = loop(ascend, (start(restart), worst))
                return worse(worst, adversarial, logits_fn(adversarial)), None

            unharmed = images, losses.margin(logits_fn(images), labels)
            (adversarial, _), _ = jax.lax.scan(run, unharmed, jnp.arange(self.restarts))
            return adversarial

        return jax.lax.stop_gradient(worst_iterate() if self.keep_worst else last_iterate())


class PgdState(NamedTuple):
    """See attack.State.

    Attributes:
        adversarial, margin: the iterate with the largest margin loss so far, and that loss.
        current: the last iterate.
        gradient: of the loss there.
    """

    adversarial: jax.Array
    margin: jax.Array
    current: jax.Array
    gradient: jax.Array

    @property
    def broken(self):
        return self.margin > 0


@dataclasses.dataclass(frozen=True)
class PgdAttack:
    """PGD as an attack of an evaluation, see attack.Attack; the iterate with the largest margin loss counts.

    Attributes:
        norm: the ball and the direction of a step.
        loss: (logits, labels) -> [B], what is climbed.
        iterations: steps per start.
        restarts: number of starts.
        random_start: start at a random point of the ball instead of the image itself.
        relative_step: size of a step, as a share of the radius.
    """

    norm: threats.Norm
    loss: Callable
    iterations: int
    restarts: int = 1
    random_start: bool = True
    relative_step: float = 0.25
    start_passes = 2.0
    step_passes = 2.0

    @property
    def runs(self) -> int:
        return self.restarts

    def start(self, logits_fn, victims: Victims, run) -> PgdState:
        """The starting point, with its gradient."""
        start = victims.images
        if self.random_start:
            keys = jax.vmap(jax.random.fold_in, (0, None))(victims.keys, 0)
            start = threats.random_start(self.norm, keys, victims.images, victims.radius)
        nothing = start, jnp.full(len(victims.labels), -jnp.inf)
        return self._visit(logits_fn, victims, nothing, start)

    def step(self, logits_fn, victims: Victims, state: PgdState, iteration) -> PgdState:
        """One step of the loss's ascent."""
        step_size = threats.per_example(self.relative_step * victims.radius, state.current)
        moved = state.current + step_size * self.norm.direction(state.gradient)
        moved = threats.project(self.norm, victims.images, moved, victims.radius)
        return self._visit(logits_fn, victims, (state.adversarial, state.margin), moved)

    def _visit(self, logits_fn, victims, worst, point):
        def total_loss(images):
            logits = logits_fn(images)
            return self.loss(logits, victims.labels).sum(), logits

        gradient, logits = jax.grad(total_loss, has_aux=True)(point)
        return PgdState(*worse_of(worst, point, logits, victims.labels), point, gradient)


def worse_of(worst, candidate, logits, labels):
    """The image that is worse for the model, `worst` or the candidate, and its margin loss.

    Args:
        worst: images [B, H, W, C] and their margin losses [B].
        candidate: images [B, H, W, C], of which `logits` [B, C] are the model's.
    """
    image, score = worst
    # A model that is not a number there has not classified the image: nothing is worse.
    candidate_score = jnp.nan_to_num(losses.margin(logits, labels), nan=jnp.inf)
    better = candidate_score > score
    return jnp.where(threats.per_example(better, image), candidate, image), jnp.maximum(score, candidate_score)
