"""The class-to-class matrix: the share of each class that a targeted attack turns into each other class.

    counts = targeted_counts(labels, targets, reached, num_classes)
    summary = matrix_summary(counts)
    summary.share[i, j]                        # share of class i that is turned into class j

If only some of the examples of class i were attacked with target j, the share of this cell is unknown (nan), because
the outcome of the missing attacks is unknown. `at_least` is then a lower bound.
"""

import dataclasses

import numpy as np

from jaxrobust.classwise.counts import class_counts, known_mean, ratio
from jaxrobust.classwise.intervals import wilson_interval


@dataclasses.dataclass(frozen=True)
class TargetedCounts:
    """Numbers of examples that were attacked with other classes as targets, and of successful attacks."""

    count: np.ndarray  # examples of each class, int64 [C]
    # examples of class i (row) that were attacked with target j (column), int64 [C, C]; 0 on the diagonal.
    tried: np.ndarray
    turned: np.ndarray  # those of them that were predicted as class j, int64 [C, C]
    exposed: np.ndarray  # examples of each class that were turned into at least one other class, int64 [C]

    @property
    def complete(self) -> bool:
        """Whether every example was attacked with every other class as target, so that no share is unknown."""
        return bool((self.tried == _others(self.count)).all())


@dataclasses.dataclass(frozen=True)
class MatrixSummary:
    """The figures of a class-to-class matrix. Rates are fractions; nan where there are no examples."""

    # share of class i turned into class j, float64 [C, C]; nan on the diagonal and where it is unknown.
    share: np.ndarray
    # low, high: its Wilson interval, [C, C]; nan where the share is nan.
    low: np.ndarray
    high: np.ndarray
    at_least: np.ndarray  # lower bound of the share, [C, C]: the share itself where it is known; nan on the diagonal
    ease: np.ndarray  # for each class as a target, [C]: mean of `at_least` over the other classes
    exposure: np.ndarray  # for each class as a source, [C]: share of its examples turned into at least one other class
    mean_exposure: np.ndarray  # for each class as a source, [C]: mean of `at_least` over the targets
    asymmetry: np.ndarray  # share[i, j] - share[j, i], [C, C]; nan where either is unknown

    def strongest_pair(self) -> tuple[int, int] | None:
        """The (source, target) with the largest `at_least`; the first of several; None if all are nan."""
        if np.isnan(self.at_least).all():
            return None
        source, target = np.unravel_index(np.nanargmax(self.at_least), self.at_least.shape)
        return int(source), int(target)


def targeted_counts(labels, targets, reached, num_classes: int) -> TargetedCounts:
    """Counts of the outcomes of targeted attacks.

    Args:
        labels: true classes, integers in [0, C), [N].
        targets: target classes of each example, [N, T], without its own class and without repetition.
        reached: whether the example was predicted as the target, bool [N, T].
        num_classes: C.

    Raises:
        ValueError: shapes or types are wrong, or a target is the label.
    """
    labels, targets, reached = np.asarray(labels), np.asarray(targets), np.asarray(reached)
    if targets.ndim != 2 or targets.shape != reached.shape or len(targets) != len(labels) or reached.dtype != bool:
        raise ValueError(f"targets {targets.shape} and reached {reached.shape} {reached.dtype} must be [N, T] and bool")
    if (targets == labels[:, None]).any():
        raise ValueError("a target must not be the label of the example")
    pairs = labels[:, None].astype(np.int64) * num_classes + targets
    shape, size = (num_classes, num_classes), num_classes**2
    return TargetedCounts(
        count=class_counts(labels, num_classes),
        tried=np.bincount(pairs.ravel(), minlength=size).reshape(shape),
        turned=np.bincount(pairs[reached], minlength=size).reshape(shape),
        exposed=np.bincount(labels[reached.any(1)], minlength=num_classes),
    )


def matrix_summary(counts: TargetedCounts, confidence: float = 0.95) -> MatrixSummary:
    """The figures computed from the counts; `confidence` is of each cell, without correction for their number."""
    possible = _others(counts.count)
    at_least = ratio(counts.turned, possible)
    known = (counts.tried == possible) & (possible > 0)
    low, high = wilson_interval(counts.turned.ravel(), np.where(known, possible, counts.turned).ravel(), confidence)
    share = np.where(known, at_least, np.nan)
    return MatrixSummary(
        share=share,
        low=np.where(known, low.reshape(share.shape), np.nan),
        high=np.where(known, high.reshape(share.shape), np.nan),
        at_least=at_least,
        ease=known_mean(at_least, axis=0),
        exposure=ratio(counts.exposed, counts.count),
        mean_exposure=known_mean(at_least, axis=1),
        asymmetry=share - share.T,
    )


def _others(count) -> np.ndarray:
    """[C, C]: number of examples of class i, all of which can be attacked with target j; 0 on the diagonal."""
    return np.where(np.eye(len(count), dtype=bool), 0, np.asarray(count)[:, None])
