"""What an attack of an evaluation is: where to start, and one step.

An attack sees the model as `logits_fn(images [B, H, W, C]) -> logits [B, C]` and nothing else. All that it knows of an
example is in a state whose arrays have the example as their leading dimension. So broken examples can leave between any
two steps, and the others be put together anew, without a change to any verdict:

    attack = PgdAttack(norm=threats.NORMS["linf"], loss=losses.cross_entropy, iterations=20)
    state = attack.start(logits_fn, victims, run)
    state = attack.step(logits_fn, victims, state, iteration)   # iteration = 0, 1, ... attack.iterations - 1
    state.adversarial                                           # the best so far, in the ball and in the box

Everything here is jittable, `run` and `iteration` may be traced. Random numbers come from `victims.keys` alone, one for
each example and run.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Victims(NamedTuple):
    """The examples that are attacked.

    Attributes:
        images: [B, H, W, C] float32 in [0, 1], classified correctly.
        labels: [B] int.
        keys: [B] PRNG keys, one for each example and run; a step draws from `fold_in(key, iteration + 1)`, `start` from
            `fold_in(key, 0)`.
        radius: [B] in pixel units.
    """

    images: jax.Array
    labels: jax.Array
    keys: jax.Array
    radius: jax.Array


class State(Protocol):
    """A pytree of arrays [B, ...], one row an example, with at least this one."""

    adversarial: jax.Array  # [B, H, W, C], of the images met so far the worst for the model; in the ball and in the box
    broken: jax.Array  # [B] bool, whether `logits_fn` misclassifies it


class Attack(Protocol):
    """One attack, with its norm, its loss and its budget.

    Attributes:
        runs: how often it is run, each time from another start or towards another class.
        iterations: steps of a run.
        start_passes, step_passes: arithmetic of `start` and of a `step`, in forward passes of the model. A gradient
            with respect to the images costs two, the forward pass in it included.
    """

    runs: int
    iterations: int
    start_passes: float
    step_passes: float

    def start(self, logits_fn, victims: Victims, run) -> State:
        """The state before the first step of run number `run`, an int32 scalar."""

    def step(self, logits_fn, victims: Victims, state: State, iteration) -> State:
        """The state after step number `iteration`, an int32 scalar from 0."""


def fold_in_ids(key, ids):
    """A key [B] for each example: `key` with the example's id [B] folded in."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def fold_in(keys, number):
    """The keys [B], each with the same number folded in."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def one_against_rest(logits_fn, targets):
    """The model as one of two classes: 1 is the target, 0 any other.

    It says 1 exactly where the model says the target, so that any attack on label 0 is one towards the target.

    Args:
        targets: [B] int, the same for all images that are asked about.

    Returns:
        images [B, H, W, C] -> logits [B, 2]: the largest of all others, and the target's.
    """

    def two_logits(images):
        logits = logits_fn(images)
        target = targets[:, None] == jnp.arange(logits.shape[-1])[None]
        others = jnp.where(target, -jnp.inf, logits).max(-1)
        return jnp.stack([others, jnp.where(target, logits, 0).sum(-1)], axis=-1)

    return two_logits


def run(attack: Attack, logits_fn, victims: Victims, run=0) -> State:
    """One whole run in one program, for few examples; the evaluation goes part by part and drops the broken ones."""

    def step(state, iteration):
        return attack.step(logits_fn, victims, state, iteration), None

    state = attack.start(logits_fn, victims, run)
    return jax.lax.scan(step, state, jnp.arange(attack.iterations))[0]
