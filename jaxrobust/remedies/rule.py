"""What a remedy is made of."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp


class Run(NamedTuple):
    """What a remedy may know of the training.

    Attributes:
        num_epochs: of the training.
        first_epoch: that remedies begin with, counted from 0.
        knobs: that the objective goes by.
        beta: its trade-off between the two losses; 0 where there is none.
        head_scale: factor on the cosines of a cosine head; 1 for a linear one.
    """

    num_epochs: int
    first_epoch: int
    knobs: tuple[str, ...]
    beta: float
    head_scale: float = 1.0

    @property
    def weights(self) -> tuple[str, ...]:
        """The knobs that weigh its losses: of natural images, of adversarial ones, or both."""
        return tuple(knob for knob in ("weight_natural", "weight_robust") if knob in self.knobs)

    def weigh(self, values) -> dict:
        """The same weights [C] on all its losses."""
        return dict.fromkeys(self.weights, values)


class Rule(NamedTuple):
    """From statistics to the values of some knobs.

    Attributes:
        knobs: names of those that it turns.
        turn: (memory, counts [C], progress through the training in [0, 1]) -> their values, by name.
        start: counts of training examples [C] -> memory, any pytree.
        observe: (memory, statistics of an epoch, number of epochs by then) -> memory.
        statistics: that it needs beside statistics.ALWAYS.
        by_counts: whether it goes by the counts.
        in_batch: class weights from the batch itself, see in_batch.py; None for none.
        average: None, or (memory, statistics of the validation split) -> (decay of the averaged weights for this epoch,
            memory), in place of an average over steps; decay 1 leaves them as they are.
    """

    knobs: tuple[str, ...]
    turn: Callable
    start: Callable = lambda counts: {}
    observe: Callable = lambda memory, statistics, epoch: memory
    statistics: tuple[str, ...] = ()
    by_counts: bool = False
    in_batch: Callable | None = None
    average: Callable | None = None


def by_counts(knobs: tuple[str, ...], values: Callable) -> Rule:
    """A rule without memory: values(counts, progress) -> values of the knobs, by name."""
    return Rule(knobs, turn=lambda memory, counts, progress: values(counts, progress), by_counts=True)


def by_last_epoch(neutral: Callable, values: Callable, statistics: tuple[str, ...] = ()) -> Rule:
    """A rule that looks at the last epoch alone.

    Args:
        neutral: number of classes -> the knobs' values before there was one, by name.
        values: statistics -> their values after it.
    """
    return Rule(
        knobs=tuple(neutral(1)),
        start=lambda counts: neutral(len(counts)),
        observe=lambda memory, statistics, epoch: values(statistics),
        turn=lambda memory, counts, progress: memory,
        statistics=statistics,
    )


def first_epoch(begin: float, num_epochs: int) -> int:
    """The epoch, counted from 0, at that fraction of the training."""
    return round(begin * num_epochs)


def has_come(begin: float, progress, run: Run):
    """Whether the epoch at the fraction `begin` has, at the fraction `progress`, which is of whole epochs."""
    return jnp.round(progress * run.num_epochs) >= first_epoch(begin, run.num_epochs)


def accuracy(statistics, correct: str = "correct", unseen=0.0):
    """Accuracy [C] of each class; `unseen` for a class without images."""
    count = statistics["count"]
    return jnp.where(count > 0, statistics[correct] / jnp.maximum(count, 1), unseen)


def epoch_scale(images, statistics):
    """How many times as many images [C] the training set has as the statistics are of, all classes together."""
    return images.sum() / jnp.maximum(statistics["count"].sum(), 1)


def mean_one(values):
    """The values scaled to 1 on average."""
    return values * (len(values) / values.sum())
