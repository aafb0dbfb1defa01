"""Auto-PGD for the L1 norm (Croce & Hein 2021, "Mind the box", https://arxiv.org/abs/2103.01208).

    attack = ApgdL1(losses.cross_entropy)

It projects exactly onto the intersection of ball and box. A step moves the entries of largest gradient in the direction
of the gradient's sign, all by the same amount. At a checkpoint the number of entries to move is set to two thirds of
the number of entries that are changed at the point of largest loss so far. If that number has fallen since the last
checkpoint, the step size is reset to one radius and the example restarts from that point; otherwise the step size is
divided by 1.5, down to a tenth of the radius. A run starts in a ball of three radii, continues in one of two radii,
then in the ball itself. Each of these parts starts from the best point of the part before, projected.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import ascent, threats
from jaxrobust.attacks.attack import Examples, fold_in

_FACTORS = (3.0, 2.0, 1.0)  # radii of the three balls
_FEWER = 1.5  # entries changed at the best point, over entries of a step
_SHRINK = 1.5  # of the step
_SHORTEST = 0.1  # step, in radii
_FALLING = 0.95  # entries changed now, over those of the last checkpoint


class Schedule(NamedTuple):
    """For each iteration of a run, arrays [iterations]."""

    factor: np.ndarray  # radius of the ball, over that of the example
    enter: np.ndarray  # whether the iteration projects the best point on that ball instead of making a step
    check: np.ndarray  # whether a checkpoint follows


def schedule(steps: int) -> Schedule:
    """`steps` steps and two changes of the ball: 30, 30 and 40 % of the steps, checkpoints every 4 % of the part."""
    third = -(-3 * steps // 10)
    rows = []
    for factor, part in zip(_FACTORS, (third, third, steps - 2 * third), strict=True):
        if rows:
            rows.append((factor, True, False))
        period = max(4 * part // 100, 1)
        rows.extend((factor, False, done % period == 0) for done in range(1, part + 1))
    return Schedule(*(np.array(column) for column in zip(*rows, strict=True)))


class State(NamedTuple):
    """Where the attack on each example stands."""

    # [B, H, W, C] the point of largest margin so far in the ball itself; the clean image before that ball is entered.
    adversarial: jax.Array
    adversarial_margin: jax.Array  # [B] its margin; minus infinity before that
    point: ascent.Point  # where the next step starts
    best: ascent.Point  # the point of largest loss so far in the current ball
    step_size: jax.Array  # [B]
    # [B] entries changed at `best` at the last checkpoint, int32. A step moves 1 / 1.5 times as many.
    changed: jax.Array
    targets: jax.Array | None  # [B] classes, None in an untargeted attack

    @property
    def is_adversarial(self):
        return self.adversarial_margin > 0


@dataclasses.dataclass(frozen=True)
class ApgdL1(ascent.Runs):
    """An attack as attack.py defines it; see ascent.Runs."""

    loss: Callable  # one of losses.LOSSES; with targets one of losses.TARGETED_LOSSES
    steps: int = 100  # steps of a run, at least 5. `iterations` is two more, for the changes of the ball.
    restarts: int = 1
    targets: int = 0

    def __post_init__(self):
        if self.steps < 5 or self.restarts < 1 or self.targets < 0:
            raise ValueError(f"{self}: steps are at least 5, restarts at least 1, targets at least 0")

    @property
    def iterations(self) -> int:
        return self.steps + 2

    def start(self, logits_fn, examples: Examples, run) -> State:
        images, labels, keys, radius = examples
        targets = self.targets_of(logits_fn, examples, run)
        keys = fold_in(keys, 0)
        noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
        radius = _FACTORS[0] * radius
        point = ascent.evaluate(logits_fn, self.loss, project(images, images + noise, radius), labels, targets)
        return State(
            adversarial=images,
            adversarial_margin=jnp.full_like(point.margin, -jnp.inf),
            point=point,
            best=point,
            step_size=radius,
            changed=_changed(images, point.images),
            targets=targets,
        )

    def step(self, logits_fn, examples: Examples, state: State, iteration) -> State:
        images, labels, _, radius = examples
        factor, enter, check = (jnp.asarray(column)[iteration] for column in schedule(self.steps))
        ball = factor.astype(radius.dtype) * radius
        direction = _sparse_signs(state.point.gradient, state.changed)
        moved = state.point.images + threats.per_example(state.step_size, images) * direction
        moved = project(images, jnp.where(enter, state.best.images, moved), ball)

        point = ascent.evaluate(logits_fn, self.loss, moved, labels, state.targets)
        worse = (factor == 1) & (point.margin > state.adversarial_margin)
        best = ascent.choose(enter | (point.loss > state.best.loss), point, state.best)

        changed = _changed(images, best.images)
        falling = check & (changed < _FALLING * state.changed)
        shrunk = jnp.maximum(state.step_size / _SHRINK, _SHORTEST * ball)
        return State(
            adversarial=ascent.choose(worse, moved, state.adversarial),
            adversarial_margin=jnp.where(worse, point.margin, state.adversarial_margin),
            point=ascent.choose(falling, best, point),
            best=best,
            step_size=jnp.where(enter | falling, ball, jnp.where(check, shrunk, state.step_size)),
            changed=jnp.where(enter | check, changed, state.changed),
            targets=state.targets,
        )


def project(images, adversarial, radius):
    """The nearest point to `adversarial` in both the L1 ball around `images` and the box [0, 1]."""
    perturbation = adversarial - images
    room = jnp.where(perturbation > 0, 1 - images, images)
    return jnp.clip(images + threats.l1_shrink(perturbation, radius, room), 0.0, 1.0)


def _changed(images, adversarial):
    return (images != adversarial).sum(axis=tuple(range(1, images.ndim)), dtype=jnp.int32)


def _sparse_signs(gradient, changed):
    """Signs of the largest entries, scaled to L1 norm 1, or 0. `changed` [B] sets how many entries, see `State`."""
    sizes = jnp.abs(gradient).reshape(len(gradient), -1)
    entries = sizes.shape[1]
    # Rounded down: otherwise two entries would stay two and never become one.
    moved = jnp.clip((changed / _FEWER).astype(jnp.int32), 1, entries)
    smallest = jnp.take_along_axis(jnp.sort(sizes, axis=1), entries - moved[:, None], axis=1)
    signs = jnp.where(sizes >= smallest, jnp.sign(gradient.reshape(sizes.shape)), 0.0)
    return (signs / jnp.maximum(jnp.abs(signs).sum(1, keepdims=True), 1.0)).reshape(gradient.shape)
