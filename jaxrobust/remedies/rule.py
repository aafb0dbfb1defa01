"""The rules that a remedy consists of, and helpers to write them."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp


class Run(NamedTuple):
    """The properties of a training that a remedy may depend on."""

    num_epochs: int  # number of epochs of the training
    first_epoch: int  # first epoch, counted from 0, in which remedies act
    knobs: tuple[str, ...]  # names of the knobs that the objective uses
    beta: float  # trade-off between the two losses of the objective; 0 if there is none
    head_scale: float = 1.0  # factor on the cosines of a cosine head; 1 for a linear head

    @property
    def weights(self) -> tuple[str, ...]:
        """The knobs for the weights of its losses: on natural images, on adversarial images, or both."""
        return tuple(knob for knob in ("weight_natural", "weight_robust") if knob in self.knobs)

    def weigh(self, values) -> dict:
        """Use the same weights [C] for all its losses."""
        return dict.fromkeys(self.weights, values)


class Rule(NamedTuple):
    """Computes the values of some knobs from statistics."""

    knobs: tuple[str, ...]  # names of the knobs that it sets
    # (state, counts [C], progress through the training in [0, 1]) -> values of these knobs, by name.
    knob_values: Callable
    init: Callable = lambda counts: {}  # counts of training examples [C] -> state, any pytree
    # (state, statistics of an epoch, number of completed epochs) -> state.
    update: Callable = lambda state, statistics, epoch: state
    statistics: tuple[str, ...] = ()  # names of the statistics that it needs in addition to statistics.ALWAYS
    by_counts: bool = False  # whether it depends on the counts
    # function that computes class weights from the current batch, see in_batch.py; or None.
    in_batch: Callable | None = None
    # None, or (state, statistics of the validation split) -> (decay of the averaged weights for this epoch, state);
    # this replaces the average over steps. Decay 1 leaves the averaged weights unchanged.
    average: Callable | None = None


def by_counts(knobs: tuple[str, ...], values: Callable) -> Rule:
    """A rule without state: values(counts, progress) -> values of the knobs, by name."""
    return Rule(knobs, knob_values=lambda state, counts, progress: values(counts, progress), by_counts=True)


def by_last_epoch(neutral: Callable, values: Callable, statistics: tuple[str, ...] = ()) -> Rule:
    """A rule that depends only on the last epoch: `values` of its statistics are those of the knobs, by name; before
    the first epoch has ended they are `neutral` of the number of classes.
    """
    return Rule(
        knobs=tuple(neutral(1)),
        init=lambda counts: neutral(len(counts)),
        update=lambda state, statistics, epoch: values(statistics),
        knob_values=lambda state, counts, progress: state,
        statistics=statistics,
    )


def first_epoch(begin: float, num_epochs: int) -> int:
    """The epoch, counted from 0, at the fraction `begin` of the training."""
    return round(begin * num_epochs)


def has_come(begin: float, progress, run: Run):
    """Whether, at the fraction `progress` (a whole number of epochs), the epoch at the fraction `begin` is reached."""
    return jnp.round(progress * run.num_epochs) >= first_epoch(begin, run.num_epochs)


def accuracy(statistics, correct: str = "correct", unseen=0.0):
    """Accuracy [C] of each class; `unseen` for a class without images."""
    count = statistics["count"]
    return jnp.where(count > 0, statistics[correct] / jnp.maximum(count, 1), unseen)


def epoch_scale(images, statistics):
    """Size of the training set, `images` [C] of each class, over the number of images in the statistics."""
    return images.sum() / jnp.maximum(statistics["count"].sum(), 1)


def mean_one(values):
    """The values scaled to 1 on average."""
    return values * (len(values) / values.sum())
