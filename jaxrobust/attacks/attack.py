"""The interface of the attacks used in evaluations: a start, and one step.

An attack sees the model only as `logits_fn(images [B, H, W, C]) -> logits [B, C]`. Everything it stores about an
example is in a state whose arrays have the examples as their leading dimension. So between any two steps, misclassified
examples can be removed and the others regrouped into new batches, without changing any result:

    attack = PgdAttack(norm=threats.NORMS["linf"], loss=losses.cross_entropy, iterations=20)
    state = attack.start(logits_fn, examples, run)
    state = attack.step(logits_fn, examples, state, iteration)   # iteration = 0, 1, ... attack.iterations - 1
    state.adversarial                           # the strongest image so far, in the ball and in the box

Everything here can be jitted; `run` and `iteration` may be traced. Random numbers come only from `examples.keys`, which
holds one key for each example and run.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Examples(NamedTuple):
    """The examples that are attacked."""

    images: jax.Array  # [B, H, W, C] float32 in [0, 1], classified correctly
    labels: jax.Array  # [B] int
    # [B] PRNG keys, one for each example and run; a step draws from `fold_in(key, iteration + 1)`, `start` from
    # `fold_in(key, 0)`.
    keys: jax.Array
    radius: jax.Array  # [B] in pixel units


class State(Protocol):
    """A pytree of arrays [B, ...], one row per example, with at least these two."""

    adversarial: jax.Array  # [B, H, W, C], the strongest adversarial image found so far, in the ball and in the box
    is_adversarial: jax.Array  # [B] bool, whether `logits_fn` misclassifies it


class Attack(Protocol):
    """One attack, with its norm, its loss and its budget.

    Attributes:
        start_passes, step_passes: cost of `start` and of one `step`, in forward passes of the model. A gradient with
            respect to the images costs two, which includes its forward pass.
    """

    runs: int  # how many times it is run, each time from a different start or towards a different class
    iterations: int  # steps of a run
    start_passes: float
    step_passes: float

    def start(self, logits_fn, examples: Examples, run) -> State:
        """The state before the first step of run number `run`, an int32 scalar that starts from 0."""

    def step(self, logits_fn, examples: Examples, state: State, iteration) -> State:
        """The state after step number `iteration`, an int32 scalar that starts from 0."""


def fold_in_ids(key, ids):
    """A key [B] for each example: `key` with the example's id [B] folded in."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def fold_in(keys, number):
    """The keys [B], each with the same number folded in."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def one_against_rest(logits_fn, targets):
    """The model as a two-class model: class 1 is the target, class 0 is every other class.

    It predicts 1 exactly where the model predicts the target [B]. So an untargeted attack on it with label 0 is an
    attack towards the target. Its logits [B, 2] are the largest one of all other classes, and that of the target.
    """

    def two_logits(images):
        logits = logits_fn(images)
        target = targets[:, None] == jnp.arange(logits.shape[-1])[None]
        others = jnp.where(target, -jnp.inf, logits).max(-1)
        return jnp.stack([others, jnp.where(target, logits, 0).sum(-1)], axis=-1)

    return two_logits
