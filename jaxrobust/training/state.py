"""The state that a training run passes from step to step, and that a checkpoint stores."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrobust.models.weights import Weights
from jaxrobust.remedies.knobs import ClassKnobs
from jaxrobust.training import class_statistics


@flax.struct.dataclass
class TrainState:
    """The state of a training run. There is no random state: randomness is a function of (seed, step)."""

    step: jax.Array  # number of batches trained on
    weights: Weights  # the weights being trained, and batch statistics
    averaged: Weights | None  # the exponential average of the weights, None if no average is kept
    opt_state: optax.OptState  # state of the optimizer
    # knobs, memory: what the remedy sets, and its state.
    knobs: ClassKnobs
    memory: Any
    class_sums: dict  # class statistics of the current epoch, see class_statistics.py


def create(model, optimizer, remedy, class_counts, image_shape, key, *, averaged: bool, observed=()) -> TrainState:
    """The state before the first step; `averaged`: whether to keep an average of the weights; `observed`: statistics to
    sum in addition to those that are always summed, see class_statistics.py.
    """
    images = jnp.zeros((1, *image_shape))
    variables = model.init(key, images, train=False)
    weights = Weights(variables["params"], variables.get("batch_stats", {}))
    knobs, memory = remedy.init(class_counts)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        weights=weights,
        averaged=jax.tree.map(jnp.copy, weights) if averaged else None,
        opt_state=optimizer.init(weights.params),
        knobs=knobs,
        memory=memory,
        class_sums=class_statistics.zeros(observed, len(class_counts)),
    )


def average(averaged: Weights, weights: Weights, step, decay: float) -> Weights:
    """Exponential average of the weights and of the batch statistics.

    Early in training the decay is smaller, (1 + step) / (10 + step), so that the random initial weights soon lose their
    influence.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return blend(averaged, weights, decay)


def blend(averaged: Weights, weights: Weights, decay) -> Weights:
    """decay * averaged + (1 - decay) * weights."""
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, averaged, weights)
