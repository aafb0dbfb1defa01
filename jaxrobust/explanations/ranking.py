"""How probes correlate with the robustness of the classes, and how well they predict a held-out run.

Arrays are [R, C]: R runs on the same C classes. The observations are the classes; more runs do not add observations.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from jaxrobust.classwise.agreement import centred_ranks
from jaxrobust.classwise.counts import ratio

PERMUTATIONS = 10_000
_TOLERANCE = 1e-9  # statistics that differ from the observed one by less count as equal to it


class Association(NamedTuple):
    """Rank correlation of a probe with robustness. nan if one of the two is the same for all classes."""

    correlation: float  # Spearman's correlation, mean over runs
    low: float  # of the correlation's interval
    high: float  # of the same
    p_value: float  # two-sided, for the hypothesis of no relation
    of_runs: tuple[float, ...]  # the correlation in each run, [R]
    classes: int  # number of classes used


def associate(probe, robustness, rng: np.random.Generator, *, confidence: float = 0.95) -> Association:
    """The rank correlation of a probe with robustness over classes, with its interval and p-value.

    Interval: for a new draw of the classes, by Bonett and Wright (Psychometrika, 2000), tanh(atanh r +- z sqrt((1 +
    r^2/2) / (C - 3))); (-1, 1) with fewer than four classes. Runs on the same classes are not independent, so the mean
    over runs gets the interval of a single run, which is rather too wide than too narrow.

    p-value: the classes of the probe are permuted, with the same permutation in all runs; the p-value is the share of
    permutations that reach the correlation. All permutations are used if there are at most `PERMUTATIONS`. Else this
    number is drawn, and the p-value is (b + 1) / (PERMUTATIONS + 1), where b of them reach the correlation.

    Classes that are nan in any run are left out.
    """
    probe, robustness = np.atleast_2d(np.asarray(probe, float)), np.atleast_2d(np.asarray(robustness, float))
    there = np.isfinite(probe).all(0) & np.isfinite(robustness).all(0)
    classes = int(there.sum())
    ranks = [unit_ranks(values[:, there]) for values in (probe, robustness)]
    of_runs = np.where(ranks[0].any(1) & ranks[1].any(1), (ranks[0] * ranks[1]).sum(1), np.nan)
    tells = ~np.isnan(of_runs)
    if not tells.any():
        return Association(*[math.nan] * 4, tuple(of_runs.tolist()), classes)
    found = float(np.clip(of_runs[tells].mean(), -1.0, 1.0))
    # The mean over runs of the correlation when class a of the probe is paired with class b of robustness.
    pairs = ranks[0][tells].T @ ranks[1][tells] / tells.sum()
    orders, exhaustive = _orders(classes, rng)
    reached = np.abs(pairs[orders, np.arange(classes)[None]].sum(1)) >= abs(found) - _TOLERANCE
    p_value = reached.mean() if exhaustive else (reached.sum() + 1) / (len(orders) + 1)
    return Association(
        found, *fisher_interval(found, classes, confidence), float(p_value), tuple(of_runs.tolist()), classes
    )


def held_out(probe, robustness) -> np.ndarray:
    """R^2 [R]: share of the variance between the classes of a run that a line fitted to the other runs predicts.

    Robustness and probe are centred in each run, and the probe is divided by its standard deviation over the classes,
    because models differ in the scale of their logits and features. The slope is the least-squares slope over all other
    runs together. R^2 is 1 - squared error / squared robustness. 0 means no better than predicting equal robustness for
    all classes; R^2 may be negative, and is nan where nothing varies. Classes that are nan in any run are left out.
    """
    x, y = _centred(probe, robustness)
    deviation = np.sqrt(np.square(x).mean(1, keepdims=True)) if x.size else np.zeros((len(x), 1))
    x = np.divide(x, deviation, out=np.zeros_like(x), where=deviation > _TOLERANCE * np.abs(x).max(initial=0))
    products, squares = (x * y).sum(1), np.square(x).sum(1)
    others = squares.sum() - squares
    slope = ratio(products.sum() - products, others)
    return _explained(y, slope[:, None] * x)


def held_out_by_class(robustness) -> np.ndarray:
    """R^2 [R] as in `held_out`, if the robustness of each class is predicted by its mean over the other runs.

    It measures what the runs have in common. It is a yardstick: a probe with this R^2 leaves little unexplained.
    """
    _, y = _centred(robustness, robustness)
    return _explained(y, (y.sum(0, keepdims=True) - y) / (len(y) - 1))


def ceiling(seeds, count) -> tuple[float, float]:
    """The R^2 that the true accuracies would reach on the mean of a setting over its K seeds; the rest is chance.

    The accuracies of each seed are centred over the classes. With s_c^2 the variance of class c over the seeds, the
    mean m_c over the seeds has the error variance s_c^2 / K, so R^2 = 1 - sum_c s_c^2 / K / sum_c m_c^2. This holds for
    other seeds on the same images. A new draw of the images too adds at most a_c (1 - a_c) / n_c to the variance of an
    accuracy a_c. It adds this in full if all seeds fail on the same images, so the second R^2 is a lower bound.

    Args:
        seeds: accuracies [K, C]; classes that are nan in any seed are left out.
        count: images of each class [C].

    Returns:
        (other seeds, other seeds and images), both unbiased and so possibly below 0; nan for one seed, or one value.
    """
    accuracy = np.atleast_2d(np.asarray(seeds, float))
    there = np.isfinite(accuracy).all(0)
    accuracy, count = accuracy[:, there], np.asarray(count, float)[there]
    centred, classes = _centred(accuracy)[0], accuracy.shape[1]
    total = np.square(centred.mean(0)).sum()
    if len(centred) < 2 or not total > 0:
        return math.nan, math.nan
    of_seeds = centred.var(0, ddof=1).sum() / len(centred)
    mean = accuracy.mean(0)
    of_images = (mean * (1 - mean) / count).sum() * (1 - 1 / classes)
    return float(1 - of_seeds / total), float(1 - (of_seeds + of_images) / total)


def _centred(*values):
    values = [np.asarray(array, float) for array in values]
    there = np.all([np.isfinite(array).all(0) for array in values], axis=0)
    return [
        array[:, there] - array[:, there].mean(1, keepdims=True) if there.any() else array[:, :0] for array in values
    ]


def _explained(y, predicted) -> np.ndarray:
    total = np.square(y).sum(1)
    return 1 - ratio(np.square(y - predicted).sum(1), total)


def unit_ranks(values) -> np.ndarray:
    """Ranks [R, C] of the classes, mean 0 and length 1; 0 if all are equal. Their inner products are correlations."""
    if values.shape[1] == 0:
        return values
    ranks = centred_ranks(values)
    lengths = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.divide(ranks, lengths, out=np.zeros_like(ranks), where=lengths > 0)


def _orders(classes: int, rng) -> tuple[np.ndarray, bool]:
    """Permutations of the classes [B, C], and whether these are all permutations."""
    if math.factorial(min(classes, 20)) <= PERMUTATIONS:
        return np.array(list(itertools.permutations(range(classes)))), True
    return rng.permuted(np.broadcast_to(np.arange(classes), (PERMUTATIONS, classes)), axis=1), False


def fisher_interval(correlation: float, classes: int, confidence: float) -> tuple[float, float]:
    if classes < 4:
        return -1.0, 1.0
    if abs(correlation) > 1 - 1e-9:  # atanh is infinite: use the next smaller correlation that ranks can have
        correlation = math.copysign(1 - 12 / (classes * (classes**2 - 1)), correlation)
        low, high = fisher_interval(correlation, classes, confidence)
        return (low, 1.0) if correlation > 0 else (-1.0, high)
    half = norm.ppf((1 + confidence) / 2) * math.sqrt((1 + correlation**2 / 2) / (classes - 3))
    centre = math.atanh(correlation)
    return math.tanh(centre - half), math.tanh(centre + half)
