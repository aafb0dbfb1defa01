"""Whether an axis of a study has an effect: exact tests that permute labels which are exchangeable without an effect.

    axis_test(accuracy, architecture, blocks, rng=rng).p_value        # the class profile; profile=False: the average
    paired_change(gap_natural, gap_adversarial, rng=rng)              # does adversarial training widen the gap?
    trend(gap, radius, blocks, rng=rng)                               # does the gap grow with the radius?

A block contains runs that differ only in the axis and the seed. Without any effect, every assignment of the levels to
the runs of a block is equally likely, so the share of assignments whose statistic is at least the observed one is a
p-value for any distribution (Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005). Up to
`permutations` assignments are all tried; of more this number is drawn, with p = (b + 1) / (permutations + 1), which is
exact too. A p-value is never below one over the number of assignments. An effect on the variation alone counts too.
"""

import dataclasses
import itertools
import math

import numpy as np
from scipy.special import stdtrit

from jaxrobust.classwise.intervals import checked_confidence, student_interval

_TOLERANCE = 1e-9  # statistics in [0, 1] that differ from the observed one by less count as equal to it
_ROUNDING = 1e-12  # deviations smaller than this, relative to the largest value, count as zero
_AT_ONCE = 2**22  # numbers in memory, 32 MiB


@dataclasses.dataclass(frozen=True)
class AxisTest:
    """Whether an axis changes the class profile, or the average."""

    statistic: float  # sum over levels and classes, weighted by runs, of the squared mean deviation from the block
    # statistic over the sum of squares within blocks, in [0, 1]; nan if nothing varies. It is > 0 by chance.
    share: float
    p_value: float  # 1 if no block has two levels, so that no test is possible
    least_p: float  # smallest p-value that any of the tried assignments would give; no effect can give a smaller one
    permutations: int  # number of assignments that p_value is computed from
    exhaustive: bool  # whether these are all assignments


@dataclasses.dataclass(frozen=True)
class PairedChange:
    """The mean of after - before, in their unit, with Student's interval and the p-value of the sign-flip test."""

    mean: float
    low: float
    high: float
    p_value: float
    least_p: float  # as in `AxisTest`


@dataclasses.dataclass(frozen=True)
class Trend:
    """The slope within blocks, value per unit of x."""

    slope: float  # least-squares slope, the same for all blocks, with an intercept for each block
    # low, high: its interval.
    low: float
    high: float
    p_value: float  # two-sided, by permuting x within blocks
    least_p: float  # as in `AxisTest`


def axis_test(
    accuracy, axis, blocks, *, rng: np.random.Generator, permutations: int = 10_000, profile: bool = True
) -> AxisTest:
    """Test whether the levels of an axis change the class profile, which is a run's accuracies minus their average.

    Args:
        accuracy: fractions [R, C]; classes that are nan in any run are left out.
        axis: [R], the level of each run.
        blocks: [R], labels; runs of a block agree in all other factors, and are exchangeable except for the axis. If a
            single training is evaluated at several levels, these evaluations are a block of their own.
        rng: generator of the permutations.
        permutations: maximal number of permutations to try.
        profile: False tests the average over classes instead.

    Raises:
        ValueError: shapes do not match, there are too few classes, or `permutations` is below 1.
    """
    accuracy = np.asarray(accuracy, float)
    if accuracy.ndim != 2 or not accuracy.size:
        raise ValueError(f"accuracy {accuracy.shape} must be [R, C]")
    accuracy = accuracy[:, ~np.isnan(accuracy).any(0)]
    if accuracy.shape[1] < 1 + profile:
        raise ValueError(f"{accuracy.shape[1]} classes with examples in all runs; need {1 + profile}")
    runs = len(accuracy)
    axis, blocks = label_indices("axis", axis, runs), label_indices("blocks", blocks, runs)
    average = accuracy.mean(1, keepdims=True)
    deviation = _within(accuracy - average if profile else average, blocks)

    def statistic(axis_BxR):
        total = np.zeros(len(axis_BxR))
        for level in range(axis.max() + 1):
            sums = (axis_BxR == level).astype(float) @ deviation
            total += (sums**2).sum(1) / (axis == level).sum()
        return total / whole if whole > 0 else total

    whole = float((deviation**2).sum())
    share, p_value, least_p, tried, exhaustive = _permutation_test(statistic, axis, blocks, rng, permutations)
    return AxisTest(share * whole, share if whole > 0 else math.nan, p_value, least_p, tried, exhaustive)


def paired_change(
    before, after, *, rng: np.random.Generator, permutations: int = 10_000, confidence: float = 0.95
) -> PairedChange:
    """The mean change of a figure over pairs of runs, with Student's interval and Fisher's test by signs (1935).

    Args:
        before, after: [P]; entry i of both is of the same setting and seed. Pairs must be independent: for a setting
            with several seeds give the means over its seeds, unless the result is meant for these settings only.
        rng: generator of the sign flips; if there are at most `permutations` ways to flip the signs, all are tried.
        permutations: maximal number of sign flips to try.
        confidence: of the interval, strictly between 0 and 1.

    Raises:
        ValueError: before and after are not vectors of the same length, there are fewer than two pairs, numbers are not
            finite, `permutations` is below 1, or the confidence is outside (0, 1).
    """
    checked_confidence(confidence)
    before, after = np.asarray(before, float), np.asarray(after, float)
    if before.ndim != 1 or before.shape != after.shape or before.size < 2:
        raise ValueError(f"before {before.shape} and after {after.shape} must be vectors of at least two pairs")
    change = _finite("before and after", after - before)
    pairs = np.repeat(np.arange(change.size), 2)
    # Exchanging the labels (0, 1) of the two halves of a pair flips the sign of its change.
    halves = np.stack([-change, change], 1).ravel() / max(2 * np.abs(change).sum(), np.finfo(float).tiny)
    label = np.tile([0, 1], change.size)

    def statistic(label_BxR):
        return np.abs(label_BxR @ halves)

    _, p_value, least_p, *_ = _permutation_test(statistic, label, pairs, rng, permutations)
    return PairedChange(float(change.mean()), *student_interval(change, confidence), p_value, least_p)


def trend(
    values, x, blocks, *, rng: np.random.Generator, permutations: int = 10_000, confidence: float = 0.95
) -> Trend:
    """The slope of a figure on x within blocks, with an interval and a test of slope 0.

    The interval is Student's with (number of blocks - 1) degrees of freedom and the cluster-robust standard error
    (Liang & Zeger, 1986), since blocks may have slopes of their own and runs of a block share errors. For a single
    block it is that of the regression line with independent errors, and (-inf, inf) for two runs.

    Args:
        values: [R], in any unit.
        x: [R], for example a radius.
        blocks: [R], labels; runs of a block differ only in x and seed. Those in which x does not vary are not used.
        rng, permutations, confidence: as of `paired_change`.

    Raises:
        ValueError: shapes do not match, numbers are not finite, x does not vary within any block, `permutations` is
            below 1, or the confidence is outside (0, 1).
    """
    checked_confidence(confidence)
    values, x = _finite("values", np.asarray(values, float)), _finite("x", np.asarray(x, float))
    if values.ndim != 1 or values.shape != x.shape:
        raise ValueError(f"values {values.shape} and x {x.shape} must be vectors with one entry per run")
    blocks = label_indices("blocks", blocks, values.size)
    tells = np.isin(blocks, [b for b in range(blocks.max(initial=-1) + 1) if np.ptp(x[blocks == b]) > 0])
    if not tells.any():
        raise ValueError("x does not vary within any block, so no block has a slope")
    values, x, blocks = values[tells], x[tells], label_indices("blocks", blocks[tells], int(tells.sum()))
    deviation, x_deviation = _within(values[:, None], blocks)[:, 0], _within(x[:, None], blocks)[:, 0]
    levels, level_R = np.unique(x, return_inverse=True)

    def statistic(level_BxR):
        return np.abs(levels[level_BxR] @ deviation) / largest

    # Upper bound for any order of x, by the Cauchy-Schwarz inequality.
    largest = max(np.linalg.norm(x_deviation) * np.linalg.norm(deviation), np.finfo(float).tiny)
    _, p_value, least_p, *_ = _permutation_test(statistic, level_R, blocks, rng, permutations)
    squares = (x_deviation**2).sum()
    slope = x_deviation @ deviation / squares
    residual, number = deviation - slope * x_deviation, blocks.max() + 1
    if number > 1:
        degrees = number - 1
        error = np.linalg.norm(np.bincount(blocks, x_deviation * residual)) / squares * math.sqrt(number / degrees)
    else:
        degrees = values.size - 2
        error = math.sqrt((residual**2).sum() / squares / degrees) if degrees else math.inf
    half_width = stdtrit(degrees, (1 + confidence) / 2) * error if degrees else math.inf
    return Trend(float(slope), float(slope - half_width), float(slope + half_width), p_value, least_p)


def label_indices(name: str, labels, runs: int) -> np.ndarray:
    """Labels of any type as integers from 0, [R]; labels are equal if their `str` is. ValueError: not R labels."""
    labels = [str(label) for label in labels]
    if len(labels) != runs:
        raise ValueError(f"{name} has {len(labels)} labels for {runs} runs")
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _within(values_RxK, blocks) -> np.ndarray:
    """Values minus the mean of their block."""
    member = (blocks[:, None] == np.arange(blocks.max() + 1)).astype(float)
    deviation = values_RxK - member @ (member.T @ values_RxK / member.sum(0)[:, None])
    return np.where(np.abs(deviation) > _ROUNDING * np.abs(values_RxK).max(), deviation, 0.0)


def _permutation_test(statistic, labels, blocks, rng, permutations: int) -> tuple[float, float, float, int, bool]:
    """(observed statistic, p-value, smallest possible one, number of assignments tried, whether these are all), by a
    statistic of labels [B, R] -> [B], in [0, 1], of which large values are evidence against the hypothesis."""
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1; got {permutations}")
    found = float(statistic(labels[None])[0])
    exhaustive = _ways(labels, blocks) <= permutations
    batches = _all_ways(labels, blocks) if exhaustive else _drawn(labels, blocks, rng, permutations)
    values = np.concatenate([[] if exhaustive else [found], *map(statistic, batches)])
    reached, largest = ((values >= least - _TOLERANCE).sum() for least in (found, values.max()))
    return found, float(reached / values.size), float(largest / values.size), values.size, exhaustive


def _ways(labels, blocks) -> int:
    """The number of different assignments of the labels within blocks."""
    ways = 1
    for block in range(blocks.max() + 1):
        counts = np.bincount(labels[blocks == block])
        ways *= math.factorial(int(counts.sum())) // math.prod(math.factorial(int(n)) for n in counts)
    return ways


def _all_ways(labels, blocks):
    """Yields all assignments of the labels within blocks, as chunks [B, R]."""
    members = [np.flatnonzero(blocks == block) for block in range(blocks.max() + 1)]
    order = np.concatenate(members)
    ways = itertools.product(*(list(_arrangements(sorted(labels[member].tolist()))) for member in members))
    while chunk := list(itertools.islice(ways, max(1, _AT_ONCE // labels.size))):
        handed_out = np.empty((len(chunk), labels.size), labels.dtype)
        handed_out[:, order] = [list(itertools.chain.from_iterable(way)) for way in chunk]
        yield handed_out


def _arrangements(labels: list):
    """Yields the different orders of the labels."""
    if not labels:
        yield ()
    for label in dict.fromkeys(labels):
        rest = labels.copy()
        rest.remove(label)
        for order in _arrangements(rest):
            yield (label, *order)


def _drawn(labels, blocks, rng, permutations: int):
    """Yields random assignments of the labels within blocks, `permutations` in total, as chunks [B, R]."""
    order = np.argsort(blocks, kind="stable")
    at_once = max(1, _AT_ONCE // labels.size)
    for start in range(0, permutations, at_once):
        size = (min(at_once, permutations - start), labels.size)
        # The random numbers are below 1, so the runs of a block stay together.
        shuffled = np.argsort(blocks + rng.random(size), axis=1)
        handed_out = np.empty(size, labels.dtype)
        handed_out[:, order] = labels[shuffled]
        yield handed_out


def _finite(name: str, values) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite; found {values[~np.isfinite(values)].ravel()[0]}")
    return values
