"""Projected gradient descent (Madry et al. 2018), for training, `Pgd`, and for evaluation, `PgdAttack`.

An attack sees the model only as `logits_fn(images [B, H, W, C]) -> logits [B, C]`. It is a composition of a norm ball
(threats.py), a loss (losses.py) and a loop. The attack of the training is one program:

    attack = Pgd(norm=threats.NORMS["linf"], steps=10)
    adversarial = attack(logits_fn, losses.cross_entropy, images, labels, keys, radius, step_size)

The length of the loop is static: a loop of unknown length would make a GPU wait for the host at every step. Gradients
are taken only with respect to the images, and no gradient flows through the result.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks import ascent, losses, threats
from jaxrobust.attacks.attack import Examples, fold_in

LOOP = "attack_loop"  # name of the loop over steps in compiled programs


class Path(NamedTuple):
    """What an attack remembers of its path, the points where it takes the gradient."""

    init: Callable  # images -> value, a pytree
    update: Callable  # (value, points [B, H, W, C], their logits [B, C], labels [B]) -> value


class Attacked(NamedTuple):
    """The result of an attack in training."""

    images: jax.Array  # [B, H, W, C], adversarial images
    correct_steps: jax.Array  # [B], number of iterates classified correctly, the start included, the last iterate not
    path: Any = ()  # the last value of `Pgd.path`; () without one


@dataclasses.dataclass(frozen=True)
class Pgd:
    """`steps` ascent steps from each of `restarts` starting points."""

    norm: threats.Norm  # the ball and the direction of a step
    steps: int  # number of steps, and so of gradients, per start
    restarts: int = 1  # number of starts
    # (norm, keys [B], images, radius [B]) -> starting points, such as `threats.random_start` or `threats.at_image`.
    start: Callable = threats.random_start
    # return the iterate with the largest margin loss among the image itself and all iterates of all starts, so that a
    # later step cannot undo a success. It costs a forward pass for each start and one more for the image. Otherwise
    # return the last iterate of the only start, as adversarial training does.
    keep_worst: bool = False
    relative_radius: float = 1.0  # of the ball that iterates are projected to, in radii
    path: Path | None = None  # what to remember of the path

    def __post_init__(self):
        if self.restarts > 1 and not self.keep_worst:
            raise ValueError("several restarts need keep_worst: without it only the last iterate of one start is used")

    def __call__(self, logits_fn, loss, images, labels, keys, radius, step_size):
        """Adversarial images [B, H, W, C]; the arguments are those of `attack`."""
        return self.attack(logits_fn, loss, images, labels, keys, radius, step_size).images

    def attack(self, logits_fn, loss, images, labels, keys, radius, step_size) -> Attacked:
        """Adversarial images, and what is known of the path to them.

        Args:
            logits_fn: images -> logits [B, C].
            loss: (logits, labels) -> [B], what the attack maximises.
            images: [B, H, W, C] float32 in [0, 1].
            labels: [B] int.
            keys: [B] PRNG keys, one per example, so that a result does not depend on the batch it was computed in.
                The starts draw from `fold_in(key, 0)`, `fold_in(key, 2)`, `fold_in(key, 3)` and so on. The caller may
                draw from `fold_in(key, 1)`, as step.draw_targets does.
            radius, step_size: [B] in pixel units.
        """
        path = self.path or Path(lambda images: (), lambda value, points, logits, labels: value)
        path_start = jnp.zeros(len(labels), jnp.int32), path.init(images)

        def visit(visited, points, logits):
            correct_steps, value = visited
            return correct_steps + (logits.argmax(-1) == labels), path.update(value, points, logits, labels)

        def step(adversarial):
            """One ascent step; also the logits at the point it started from."""

            def total_loss(adversarial):
                logits = logits_fn(adversarial)
                return loss(logits, labels).sum(), logits

            gradient, logits = jax.grad(total_loss, has_aux=True)(adversarial)
            ball = self.relative_radius * radius
            return threats.ascend(self.norm, images, adversarial, gradient, ball, step_size), logits

        def starting_point(restart):
            draw = jnp.where(restart > 0, restart + 1, 0)  # 1 is the caller's
            return self.start(self.norm, fold_in(keys, draw), images, radius)

        def worse(worst, candidate, logits):
            """Replace the worst image so far, and its margin, wherever the candidate has a larger margin."""
            image, score = worst
            # Where the logits are NaN the model has not classified the image: that is the worst case.
            candidate_score = jnp.nan_to_num(losses.margin(logits, labels), nan=jnp.inf)
            better = candidate_score > score
            return ascent.choose(better, candidate, image), jnp.maximum(score, candidate_score)

        @jax.named_scope(LOOP)
        def loop(body, carry):
            return jax.lax.scan(body, carry, length=self.steps)[0]

        def ascend(carry, _):
            adversarial, worst, visited = carry
            moved, logits = step(adversarial)
            worst = worst and worse(worst, adversarial, logits)
            return (moved, worst, visit(visited, adversarial, logits)), None

        def last_iterate():
            adversarial, _, visited = loop(ascend, (starting_point(0), (), path_start))
            return adversarial, visited

        def worst_iterate():
            def run(carry, restart):
                adversarial, worst, visited = loop(ascend, (starting_point(restart), *carry))
                return (worse(worst, adversarial, logits_fn(adversarial)), visited), None

            unharmed = images, losses.margin(logits_fn(images), labels)
            ((adversarial, _), visited), _ = jax.lax.scan(run, (unharmed, path_start), jnp.arange(self.restarts))
            return adversarial, visited

        found, visited = jax.lax.stop_gradient(worst_iterate() if self.keep_worst else last_iterate())
        return Attacked(found, *visited)


class PgdState(NamedTuple):
    """See attack.State."""

    adversarial: jax.Array  # [B, H, W, C], the iterate with the largest margin loss so far
    margin: jax.Array  # [B], that loss
    point: ascent.Point  # the last iterate
    targets: jax.Array | None  # [B] classes, None in an untargeted attack

    @property
    def is_adversarial(self):
        return self.margin > 0


@dataclasses.dataclass(frozen=True)
class PgdAttack(ascent.Runs):
    """PGD as an attack of an evaluation, see ascent.Runs; its result is the iterate with the largest margin loss."""

    norm: threats.Norm  # the ball and the direction of a step
    loss: Callable  # one of losses.LOSSES; with targets one of losses.TARGETED_LOSSES
    iterations: int  # steps per start
    restarts: int = 1
    targets: int = 0
    random_start: bool = True  # start at a random point of the ball instead of the image itself
    relative_step: float = 0.25  # size of a step, as a share of the radius

    def start(self, logits_fn, examples: Examples, run) -> PgdState:
        """The starting point."""
        images, labels, keys, radius = examples
        start = threats.random_start(self.norm, fold_in(keys, 0), images, radius) if self.random_start else images
        targets = self.targets_of(logits_fn, examples, run)
        point = ascent.evaluate(logits_fn, self.loss, start, labels, targets)
        return PgdState(point.images, point.margin, point, targets)

    def step(self, logits_fn, examples: Examples, state: PgdState, iteration) -> PgdState:
        """One ascent step on the loss."""
        images, labels, _, radius = examples
        step_size = self.relative_step * radius
        moved = threats.ascend(self.norm, images, state.point.images, state.point.gradient, radius, step_size)
        point = ascent.evaluate(logits_fn, self.loss, moved, labels, state.targets)
        adversarial = ascent.choose(point.margin > state.margin, point.images, state.adversarial)
        return PgdState(adversarial, jnp.maximum(point.margin, state.margin), point, state.targets)
