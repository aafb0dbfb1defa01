"""Auto-PGD (Croce & Hein 2020, https://arxiv.org/abs/2003.01690): PGD that sets its own step size. Linf and L2.

    attack = Apgd(threats.NORMS["linf"], losses.cross_entropy)                 # APGD-CE
    attack = Apgd(threats.NORMS["linf"], losses.targeted_dlr, targets=9)       # APGD-T

Steps have momentum; the first step size is twice the radius. The step size is checked at checkpoints, at intervals that
become shorter. There the step size of an example is halved, and the example restarts from its point of largest loss so
far, if too few of the steps since the last checkpoint raised its loss, or if neither its step size nor its largest loss
has changed since then. For L1 see apgd_l1.py.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import ascent, threats
from jaxrobust.attacks.attack import Examples, fold_in

_FIRST_STEP = 2.0  # in radii
_NEW = 0.75  # weight of the new step, the rest is momentum
_RISING = 0.75  # share of steps that must raise the loss


def checkpoints(iterations: int) -> dict[int, int]:
    """The numbers of steps after which the step size is checked: {steps done: steps since the last checkpoint}.

    The first interval is 0.22 of the run, and each following one is shorter by 0.03, down to 0.06, as in the paper;
    rounded down as in its implementation.
    """
    period, shorter, shortest = (max(iterations * share // 100, 1) for share in (22, 3, 6))
    result, done = {}, period
    while done <= iterations:
        result[done] = period
        period = max(period - shorter, shortest)
        done += period
    return result


class State(NamedTuple):
    """Where the attack on each example stands."""

    adversarial: jax.Array  # [B, H, W, C] the point of largest margin so far
    adversarial_margin: jax.Array  # [B] its margin
    # where the next step starts. After a checkpoint this may be `best`, but its loss is still that of the last step,
    # because the next step is compared with that one.
    point: ascent.Point
    previous: jax.Array  # [B, H, W, C] where the last step started
    best: ascent.Point  # the point of largest loss so far
    step_size: jax.Array  # [B]
    rises: jax.Array  # [B] steps since the last checkpoint that raised the loss
    best_loss_at_check: jax.Array  # [B] `best.loss` at the last checkpoint
    halved: jax.Array  # [B] whether the step was halved there; true before the first
    targets: jax.Array | None  # [B] classes, None in an untargeted attack

    @property
    def is_adversarial(self):
        return self.adversarial_margin > 0


@dataclasses.dataclass(frozen=True)
class Apgd(ascent.Runs):
    """An attack as attack.py defines it; see ascent.Runs."""

    norm: threats.Norm  # linf or l2 of threats.NORMS
    loss: Callable  # one of losses.LOSSES; with targets one of losses.TARGETED_LOSSES
    iterations: int = 100  # steps of a run
    restarts: int = 1
    targets: int = 0

    def __post_init__(self):
        if self.norm == threats.NORMS["l1"]:
            raise ValueError("this attack does not support L1; use ApgdL1")
        if self.iterations < 1 or self.restarts < 1 or self.targets < 0:
            raise ValueError(f"{self}: iterations and restarts are at least 1, targets at least 0")

    def start(self, logits_fn, examples: Examples, run) -> State:
        images, labels, keys, radius = examples
        targets = self.targets_of(logits_fn, examples, run)
        # On the surface of the ball, as published; the box may cut it off.
        keys = fold_in(keys, 0)
        noise = self.norm.random(keys, images.shape[1:], jnp.ones_like(radius))
        noise *= threats.per_example(radius / jnp.maximum(self.norm.size(noise), 1e-12), noise)
        point = ascent.evaluate(logits_fn, self.loss, jnp.clip(images + noise, 0.0, 1.0), labels, targets)
        return State(
            adversarial=point.images,
            adversarial_margin=point.margin,
            point=point,
            previous=point.images,
            best=point,
            step_size=_FIRST_STEP * radius,
            rises=jnp.zeros(labels.shape, jnp.int32),
            best_loss_at_check=point.loss,
            halved=jnp.ones(labels.shape, bool),
            targets=targets,
        )

    def step(self, logits_fn, examples: Examples, state: State, iteration) -> State:
        images, labels, _, radius = examples
        here = state.point.images
        ahead = threats.ascend(self.norm, images, here, state.point.gradient, radius, state.step_size)
        new = jnp.where(iteration == 0, 1.0, _NEW)
        moved = here + new * (ahead - here) + (1 - new) * (here - state.previous)
        moved = threats.project(self.norm, images, moved, radius)

        point = ascent.evaluate(logits_fn, self.loss, moved, labels, state.targets)
        worse = point.margin > state.adversarial_margin
        best = ascent.choose(point.loss > state.best.loss, point, state.best)
        rises = state.rises + (point.loss > state.point.loss)

        since = np.zeros(self.iterations, np.int32)  # steps since the last checkpoint, where there is one
        for done, period in checkpoints(self.iterations).items():
            since[done - 1] = period
        since = jnp.asarray(since)[iteration]
        check = since > 0
        stuck = ~state.halved & (state.best_loss_at_check >= best.loss)
        halve = check & ((rises <= _RISING * since) | stuck)
        return State(
            adversarial=ascent.choose(worse, moved, state.adversarial),
            adversarial_margin=jnp.maximum(point.margin, state.adversarial_margin),
            point=ascent.choose(halve, best._replace(loss=point.loss), point),
            previous=here,
            best=best,
            step_size=jnp.where(halve, state.step_size / 2, state.step_size),
            rises=jnp.where(check, 0, rises),
            best_loss_at_check=jnp.where(check, best.loss, state.best_loss_at_check),
            halved=jnp.where(check, halve, state.halved),
            targets=state.targets,
        )
