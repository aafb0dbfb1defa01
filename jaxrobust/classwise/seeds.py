"""Means over several training seeds of a config, also for many configs that are compared with a base.

A run is one draw of the training seed, scored on one draw of test images; all seeds are scored on the same images. So
the mean over seeds has two errors, and averaging over seeds reduces only the first:

    mean = truth + (error by the draw of the seeds) + (error by the draw of the test images)
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.classwise.counts import ratio
from jaxrobust.classwise.intervals import checked_confidence

MIN_SEEDS = 3  # two seeds say little about the variation between seeds: their t interval is +- 13 standard errors
_LEAST_LEVEL = 1e-9
_BISECTIONS = 14


class Spread(NamedTuple):
    """Standard deviation between seeds, and its number of degrees of freedom."""

    deviation: float
    degrees: int


@dataclasses.dataclass(frozen=True)
class SeedMean:
    """A mean over seeds with its interval."""

    mean: float
    low: float
    high: float
    covers_seeds: bool  # whether the interval covers the draw of the seeds as well as the draw of the images


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread | None:
    """The spread over seeds, pooled over several methods; None if no method has two seeds.

    Three seeds of a single method estimate their variation poorly, all methods together well, as in Dunnett's
    comparison of many treatments with a control (1955).

    Args:
        groups: for each method one figure per seed.
    """
    groups = [np.asarray(group, float) for group in groups]
    degrees = sum(group.size - 1 for group in groups if group.size)
    if not degrees:
        return None
    squares = sum(((group - group.mean()) ** 2).sum() for group in groups if group.size)
    return Spread(math.sqrt(squares / degrees), degrees)


class PairedSpread(NamedTuple):
    """How accuracies vary from seed to seed, class by class, as x = arcsin(sqrt(accuracy))."""

    # x of the runs of the base and of what is trained like it, minus the mean over the seeds of each, [N, C].
    runs: np.ndarray
    degrees: int  # of freedom of their variances
    change: np.ndarray  # variance of the change of x where methods change heads of the base's checkpoints, [C]
    change_degrees: int  # of it


def paired_spread(methods: Sequence[tuple[np.ndarray, np.ndarray, bool]]) -> PairedSpread:
    """The spread over seeds of methods that are each paired with the same base.

    Three seeds of a single method estimate it poorly, those of all methods together well, as on this scale the spread
    hardly depends on the accuracy. Each class has its own: that of the worst is often the largest. Where a method
    changes the head of the base's checkpoint, only the change is new in its runs.

    Args:
        methods: for each method the accuracies of base and method in each pair, [S, C] each, and whether the method
            changes the base's checkpoint.
    """
    sides = [(np.arcsin(np.sqrt(a)), np.arcsin(np.sqrt(b)), heads) for a, b, heads in methods if len(a) > 1]
    base = max((a for a, _, _ in sides), key=lambda a: (len(a), a.sum()))
    trained = [base, *(b for _, b, heads in sides if not heads)]
    changes = [b - a for a, b, heads in sides if heads] or [0 * base]

    def centred(groups):
        rows = np.concatenate([group - group.mean(0) for group in groups])
        return rows[np.lexsort(rows.T)], len(rows) - len(groups)  # sorted: the order of the methods does not matter

    (runs, degrees), (of_change, change_degrees) = centred(trained), centred(changes)
    return PairedSpread(runs, degrees, np.square(of_change).sum(0) / change_degrees, change_degrees)


def lowest_classes(accuracies: np.ndarray) -> list[int]:
    """The classes that may be the lowest over all seeds, as far as these seeds [S, C] say; nan for absent classes.

    The lowest mean, and with `MIN_SEEDS` or more those within two standard errors of it over the seeds. To name the
    lowest alone would favour a class that is low in just these runs.
    """
    accuracies = np.asarray(accuracies, float)
    mean = accuracies.mean(0)
    lowest = int(np.nanargmin(mean))
    if len(accuracies) < MIN_SEEDS:
        return [lowest]
    # As if all classes had one spread on this scale: a wrong name costs power, not validity.
    variance = np.arcsin(np.sqrt(accuracies[:, ~np.isnan(mean)])).var(0, ddof=1).mean()
    error = np.sqrt(variance / len(accuracies) * 4 * (mean * (1 - mean) + mean[lowest] * (1 - mean[lowest])))
    return np.flatnonzero(mean - mean[lowest] <= 2 * error).tolist()


def paired_distance(a: np.ndarray, b: np.ndarray, same, spread: PairedSpread, tail, heads: bool = False) -> np.ndarray:
    """Student's t times the standard error over seeds of the mean differences b - a, [C].

    The variance is that of `spread`, or that of the differences themselves where it is larger than chance allows (F
    test at 5 %). Of separate trainings it is the sum of the variances of both classes. Of a changed head it is that of
    the difference within a checkpoint, where what both accuracies share cancels, and that of the change, with
    Satterthwaite's degrees of freedom.

    Args:
        a, b: accuracies of each pair, [S, 1] and [S, C].
        same: bool [C], which columns of b are the class of a.
        tail: probability beyond the distance on one side, scalar or [C].
        heads: whether one of the two changes the checkpoint of the other.
    """
    from scipy.special import fdtri, stdtrit  # not at the top: `import jaxrobust` does without SciPy

    # Derivative of the accuracy in x.
    of_a, of_b = (2 * np.sqrt(side.mean(0) * (1 - side.mean(0))) for side in (a, b))
    from_a, from_b = of_a * spread.runs[:, same], of_b * spread.runs
    trained = (np.square(from_b - from_a) if heads else np.square(from_b) + np.square(from_a)).sum(0) / spread.degrees
    change = heads * np.maximum(of_b**2 * spread.change, of_a**2 * spread.change[same])
    pooled, own, number = trained + change, (b - a).var(0, ddof=1), len(a)
    degrees = ratio(pooled**2, trained**2 / spread.degrees + change**2 / spread.change_degrees)
    degrees = np.where(pooled > 0, degrees, spread.degrees)
    variance = np.where(own > fdtri(number - 1, degrees, 0.95) * pooled, own, pooled)
    return -stdtrit(degrees, tail) * np.sqrt(variance / number)


def seed_mean(
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    confidence: float,
    spread: Spread | None = None,
    runs: int = 1,
) -> SeedMean:
    """The mean over seeds, with an interval for the draw of the images and, with at least `MIN_SEEDS`, of the seeds.

    Images: the mean over seeds of the given interval ends (the error of a mean is never larger than the mean of the
    errors; `averaged_share` gives narrower ones). Seeds: Student's t interval with the larger of two standard errors,
    from `spread` and from the values. The two distances from the mean are combined as the root of the sum of their
    squares. For normal errors the coverage is at least `confidence`: it is wider than Cochran's solution of the
    Behrens-Fisher problem, which has this coverage (Mickey & Brown 1966).

    Args:
        values: one figure per seed, [S].
        low, high: interval of each figure for the draw of the images, at the same confidence, [S].
        confidence: strictly between 0 and 1.
        spread: spread of single runs; if None, the variation between seeds is estimated from the values only.
        runs: number of runs that enter each value: 2 for a difference.

    Raises:
        ValueError: there is no seed, or the confidence is outside (0, 1).
    """
    from scipy.special import stdtrit  # not at the top: `import jaxrobust` does without SciPy

    values, low, high = (np.asarray(v, float) for v in (values, low, high))
    checked_confidence(confidence)
    if not values.size:
        raise ValueError("no seeds")
    mean, seeds = values.mean(), 0.0
    if values.size >= MIN_SEEDS:
        deviation, degrees = values.std(ddof=1), values.size - 1
        if spread is not None:
            deviation, degrees = max(deviation, math.sqrt(runs) * spread.deviation), max(degrees, spread.degrees)
        seeds = stdtrit(degrees, (1 + confidence) / 2) * deviation / math.sqrt(values.size)
    return SeedMean(
        mean=float(mean),
        low=float(mean - np.hypot(max(mean - low.mean(), 0.0), seeds)),
        high=float(mean + np.hypot(max(high.mean() - mean, 0.0), seeds)),
        covers_seeds=values.size >= MIN_SEEDS,
    )


def averaged_share(labels, differences, num_classes: int) -> np.ndarray:
    """[C]: standard error of a mean over seeds by the draw of the images, over the mean standard error of the seeds.

    It is 1 if the difference on each image is the same for all S seeds. With fewer than `MIN_SEEDS` it is the root of
    1 / S if these are independent. From there on it is then 0: what differs by seed and image is part of the spread
    over seeds, and only what the seeds have in common is left.

    Args:
        labels: true classes, integers in [0, C), [N].
        differences: is_correct under B minus is_correct under A, in {-1, 0, 1}, [S, N].
        num_classes: C; the share is 1 for classes whose differences are the same on all images.
    """
    share = np.ones(num_classes)
    for c in range(num_classes):
        of_class = np.asarray(differences, float)[:, np.asarray(labels) == c]
        if not of_class.size:
            continue
        centred = of_class - of_class.mean(1, keepdims=True)
        squares, number = (centred**2).sum(1), len(centred)
        if not squares.any():
            continue
        of_mean = (centred.mean(0) ** 2).sum()
        if number >= MIN_SEEDS:
            of_mean = max(number * of_mean - squares.mean(), 0.0) / (number - 1)
        share[c] = math.sqrt(of_mean) / np.sqrt(squares).mean()
    return share


def level_of(interval: Callable[[float], tuple[float, float]]) -> float:
    """The p-value that corresponds to an interval: the smallest level at which it excludes 0; at least 1e-9.

    `interval` is confidence -> (low, high), wider for a higher confidence.
    """

    def leaves_out(level):
        low, high = interval(1 - level)
        return not low <= 0 <= high

    if not leaves_out(1 - _LEAST_LEVEL):
        return 1.0
    if leaves_out(_LEAST_LEVEL):
        return _LEAST_LEVEL
    inside, outside = math.log(_LEAST_LEVEL), 0.0
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if leaves_out(math.exp(middle)) else (middle, outside)
    return math.exp(outside)
