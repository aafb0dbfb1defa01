"""How probes correlate with the robustness of the classes, and how well they predict a held-out run.

Arrays are [R, C]: R runs on the same C classes. The observations are the classes; more runs do not add observations.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from jaxrobust.classwise.agreement import unit_ranks
from jaxrobust.classwise.counts import known_mean, ratio

PERMUTATIONS = 10_000
BEST_PERMUTATIONS = 999
LEAST_CLASSES = 5  # for a line through the others; of fewer, too, all orders of the classes are likely ones
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
    """R^2 [R]: share of the variance between the classes of a run that a line predicts, fitted without run and class.

    Each class of each run is predicted by the line of all other classes of all other runs. Of robustness, and of the
    probe, the difference of a class from the mean of the other classes of the run is used; the probe is divided by its
    standard deviation over the classes, because models differ in the scale of their logits and features. R^2 is 1 -
    squared error / squared difference. 0 means no better than calling the class as robust as the mean of the others. It
    is negative for a probe that says nothing, as its slope is chance. nan where nothing varies, or with fewer than
    `LEAST_CLASSES`, of which R^2 may be -2,000. Classes that are nan in any run are left out.
    """
    return _held_out(*_there(probe, robustness))


def held_out_p_values(probes, robustness, rng: np.random.Generator) -> np.ndarray:
    """p-values [P] of the mean R^2 of `held_out`, each as that of the best of all these probes.

    The classes of robustness are permuted, in all runs alike; the p-value of a probe is the share of permutations in
    which any probe reaches its R^2 (Westfall and Young, 1993), (b + 1) / (`BEST_PERMUTATIONS` + 1). The hypothesis is
    that no probe has to do with robustness.

    Args:
        probes: P arrays [R, C]; nan for a run that lacks the probe, else as for `held_out`.
        robustness: [R, C].
        rng: generator of the permutations.
    """
    robustness = np.asarray(robustness, float)
    classes = robustness.shape[1]
    orders = np.stack([np.arange(classes), *(rng.permutation(classes) for _ in range(BEST_PERMUTATIONS))])
    found = []
    for probe in probes:
        has = np.isfinite(probe).any(1)
        parts = np.array_split(orders, 10)  # [B, R, C] at a time
        of_parts = [_held_out(*_there(probe[has], robustness[has][:, part].swapaxes(0, 1))) for part in parts]
        found.append(np.concatenate([known_mean(of, axis=-1) for of in of_parts]))
    found = np.stack(found)
    best = np.fmax.reduce(found, axis=0)
    reached = (best >= found[:, :1] - _TOLERANCE).mean(1)
    return np.where(np.isnan(found[:, 0]), np.nan, reached)


def _there(probe, robustness) -> tuple[np.ndarray, np.ndarray]:
    """The classes that are known in all runs of both, [..., R, C]."""
    probe, robustness = np.asarray(probe, float), np.asarray(robustness, float)
    there = np.isfinite(probe).all(0) & np.isfinite(robustness).reshape(-1, robustness.shape[-1]).all(0)
    return probe[:, there], robustness[..., there]


def _held_out(x, y) -> np.ndarray:
    """R^2 [..., R] of x [R, C] for y [..., R, C]. Sums without a class follow from those with it."""
    classes = y.shape[-1]
    if classes < LEAST_CLASSES:
        return np.full(y.shape[:-1], np.nan)
    x, y = (values - values.mean(-1, keepdims=True) for values in (x, y))
    deviation = np.sqrt(np.square(x).mean(-1, keepdims=True))
    x = np.divide(x, deviation, out=np.zeros_like(x), where=deviation > _TOLERANCE * np.abs(x).max(initial=0))
    more = classes / (classes - 1)  # a difference from the mean of the others, over that from the mean of all
    products, squares = ((x * of).sum(-1, keepdims=True) - more * x * of for of in (y, x))
    slope = ratio(products.sum(-2, keepdims=True) - products, squares.sum(-2, keepdims=True) - squares)
    return _explained(y, slope * x)


def held_out_by_class(robustness) -> np.ndarray:
    """R^2 [R], if the robustness of each class is predicted by its mean over the other runs.

    It measures what the runs have in common. It is a yardstick: a probe with this R^2 leaves little unexplained.
    """
    y = _centred(robustness)
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
    centred, classes = _centred(accuracy), accuracy.shape[1]
    total = np.square(centred.mean(0)).sum()
    if len(centred) < 2 or not total > 0:
        return math.nan, math.nan
    of_seeds = centred.var(0, ddof=1).sum() / len(centred)
    mean = accuracy.mean(0)
    of_images = (mean * (1 - mean) / count).sum() * (1 - 1 / classes)
    return float(1 - of_seeds / total), float(1 - (of_seeds + of_images) / total)


def _centred(values) -> np.ndarray:
    """Differences from the mean of each run, of the classes that all runs have."""
    values = np.asarray(values, float)
    values = values[:, np.isfinite(values).all(0)]
    return values - values.mean(1, keepdims=True) if values.size else values


def _explained(y, predicted) -> np.ndarray:
    return 1 - ratio(np.square(y - predicted).sum(-1), np.square(y).sum(-1))


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
