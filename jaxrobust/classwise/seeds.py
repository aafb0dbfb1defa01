"""What several training seeds of a config say together, of one config or of many that are compared with a base.

A run is one draw of the training seed, judged on one draw of test images; all seeds are judged on the same images. So
the mean over seeds is uncertain for two reasons, and averaging over seeds helps against the first alone:

    mean = truth + (what the seeds happen to be) + (what the test images happen to be)
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from jaxrobust.classwise.intervals import checked_confidence

MIN_SEEDS = 3  # fewer say next to nothing about how seeds vary: of two, a t interval is 13 standard errors wide
_LEAST_LEVEL = 1e-9
_BISECTIONS = 14


class Spread(NamedTuple):
    """Standard deviation from seed to seed, and on how many degrees of freedom it is known."""

    deviation: float
    degrees: int


@dataclasses.dataclass(frozen=True)
class SeedMean:
    """A mean over seeds with its interval.

    Attributes:
        covers_seeds: the interval covers the draw of the seeds as well as that of the images.
    """

    mean: float
    low: float
    high: float
    covers_seeds: bool


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread | None:
    """The spread over seeds that several methods have in common; None where none has two seeds.

    With three seeds each, a method by itself says little of how its seeds vary: a test of 25 methods would need
    differences of 13 standard errors. All methods together say it well, as in the analysis of variance, and as in
    Dunnett's comparison of many treatments with a control (1955).

    Args:
        groups: of each method one figure per seed.
    """
    groups = [np.asarray(group, float) for group in groups]
    degrees = sum(group.size - 1 for group in groups if group.size)
    if not degrees:
        return None
    squares = sum(((group - group.mean()) ** 2).sum() for group in groups if group.size)
    return Spread(math.sqrt(squares / degrees), degrees)


def seed_mean(
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    confidence: float,
    spread: Spread | None = None,
    runs: int = 1,
) -> SeedMean:
    """The mean over seeds, with an interval for the draw of the images and, from `MIN_SEEDS` on, of the seeds.

    Images: the mean over seeds of the ends given. Seeds: Student's t interval with the larger of two standard errors,
    that of `spread` and that of the values; so it holds where methods vary alike, and a method that varies more than
    the others is given more. The distances of both ends from the mean are squared and added. For normal errors this
    covers at least `confidence`: it is wider than Cochran's solution of the Behrens-Fisher problem, which does (Mickey
    & Brown 1966), and the part of the images' error that differs from seed to seed counts twice.

    The error of a mean is never larger than the mean of the errors, however they depend on each other, so intervals of
    one seed may be given as they are. Narrower ones follow from `averaged_share`.

    Args:
        values: one figure per seed, [S].
        low, high: its interval for the draw of the images, at the same confidence, [S].
        confidence: strictly between 0 and 1.
        spread: of single runs; without it the values alone say how seeds vary.
        runs: how many runs a value is made of: 2 for a difference.

    Raises:
        ValueError: no seed, or a confidence outside (0, 1).
    """
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
    """Standard error, by the draw of the images, of a mean over seeds, as a share of the mean of theirs; [C].

    All seeds are judged on the same images. Were the difference on an image the same in each, a mean over S seeds would
    be no surer than one of them, a share of 1; were it drawn anew in each, the share would be the root of 1 / S.

    Args:
        labels: true classes, integers in [0, C), [N].
        differences: verdict under B minus verdict under A, in {-1, 0, 1}, [S, N].
        num_classes: C; classes whose images do not differ at all have a share of 1.
    """
    share = np.ones(num_classes)
    for c in range(num_classes):
        of_class = np.asarray(differences, float)[:, np.asarray(labels) == c]
        if not of_class.size:
            continue
        centred = of_class - of_class.mean(1, keepdims=True)
        of_one = np.linalg.norm(centred, axis=1).mean()
        if of_one > 0:
            share[c] = np.linalg.norm(centred.mean(0)) / of_one
    return share


def level_of(interval: Callable[[float], tuple[float, float]], value: float = 0.0) -> float:
    """The p-value that belongs to an interval: the least level at which it leaves out `value`; at least 1e-9.

    Args:
        interval: confidence -> (low, high), the wider the higher the confidence.
    """

    def leaves_out(level):
        low, high = interval(1 - level)
        return not low <= value <= high

    if not leaves_out(1 - _LEAST_LEVEL):
        return 1.0
    if leaves_out(_LEAST_LEVEL):
        return _LEAST_LEVEL
    inside, outside = math.log(_LEAST_LEVEL), 0.0
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if leaves_out(math.exp(middle)) else (middle, outside)
    return math.exp(outside)
