"""Everything that a training run carries from step to step, and that a checkpoint holds."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrobust import statistics
from jaxrobust.remedies.knobs import ClassKnobs


@flax.struct.dataclass
class Weights:
    """What a model is applied with."""

    params: Any
    batch_stats: Any

    @property
    def variables(self) -> dict:
        """As `model.apply` takes it."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class TrainState:
    """The state of a training run. There is no random state: randomness is a function of (seed, step).

    Attributes:
        step: number of batches trained on.
        weights: the weights being trained, and batch statistics.
        averaged: their exponential average, None where none is kept.
        opt_state: the optimizer's.
        knobs, memory: the remedy's.
        class_sums: class statistics of the current epoch, see statistics.py.
    """

    step: jax.Array
    weights: Weights
    averaged: Weights | None
    opt_state: optax.OptState
    knobs: ClassKnobs
    memory: Any
    class_sums: dict


def create(model, optimizer, remedy, class_counts, image_shape, key, *, averaged: bool, observed=()) -> TrainState:
    """The state before the first step.

    Args:
        key: draws the weights.
        averaged: whether to keep an average of them.
        observed: statistics to sum up beside those that always are, see statistics.py.
    """
    images = jnp.zeros((1, *image_shape))
    variables = model.init(key, images, train=False)
    weights = Weights(variables["params"], variables.get("batch_stats", {}))
    knobs, memory = remedy.start(class_counts)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        weights=weights,
        averaged=jax.tree.map(jnp.copy, weights) if averaged else None,
        opt_state=optimizer.init(weights.params),
        knobs=knobs,
        memory=memory,
        class_sums=statistics.zeros(observed, len(class_counts)),
    )


def average(averaged: Weights, weights: Weights, step, decay: float) -> Weights:
    """Exponential average of weights and batch statistics alike.

    Early on the decay is smaller, (1 + step) / (10 + step), so that the random initial weights are soon forgotten.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return blend(averaged, weights, decay)


def blend(averaged: Weights, weights: Weights, decay) -> Weights:
    """decay * averaged + (1 - decay) * weights."""
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, averaged, weights)
