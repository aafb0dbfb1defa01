"""Compare two models, or two attacks on one model, on the same examples, class by class.

Examples on which both are alike do not contribute to the difference, so all figures use the counts of discordant
examples: correct only under A, or only under B. Differences are B minus A. Intervals and tests cover the draw of the
test examples. They do not cover the training seed: another run of A's config also differs from A.
"""

import dataclasses

import numpy as np

from jaxrobust.classwise.counts import checked_counts, class_counts, correct_counts, ratio
from jaxrobust.classwise.intervals import checked_confidence
from jaxrobust.classwise.worst import exact_bounds

_BISECTIONS = 55  # halvings of an interval of length at most 2: to the last bits of a float64


@dataclasses.dataclass(frozen=True)
class PairedCounts:
    """How many of the same examples are correct under A, and under B, by class, int64 [C]."""

    count: np.ndarray
    correct_a: np.ndarray
    correct_b: np.ndarray
    only_a: np.ndarray  # correct under A and wrong under B
    only_b: np.ndarray  # wrong under A and correct under B

    def total(self) -> "PairedCounts":
        """The counts summed over all classes, as a single class [1]."""
        return PairedCounts(*(getattr(self, field.name).sum(keepdims=True) for field in dataclasses.fields(self)))


def paired_counts(labels, is_correct_a, is_correct_b, num_classes: int) -> PairedCounts:
    """Count the pairs of outcomes of each class.

    Args:
        labels: true classes, integers in [0, C), shape [N].
        is_correct_a, is_correct_b: bool [N], true where the example is correct (is robust) under A, and under B.
        num_classes: C.

    Raises:
        ValueError: the shapes differ, is_correct is not bool, or a label is not in [0, C).
    """
    correct_a = correct_counts(labels, is_correct_a, num_classes)
    correct_b = correct_counts(labels, is_correct_b, num_classes)
    both = correct_counts(labels, np.asarray(is_correct_a) & np.asarray(is_correct_b), num_classes)
    return PairedCounts(class_counts(labels, num_classes), correct_a, correct_b, correct_a - both, correct_b - both)


def paired_difference(pairs: PairedCounts) -> np.ndarray:
    """Accuracy under B minus accuracy under A, float64 [C]; nan for a class without examples."""
    return ratio(pairs.only_b - pairs.only_a, pairs.count)


def mcnemar_test(only_a, only_b) -> np.ndarray:
    """Exact two-sided p-value of McNemar's test, with the hypothesis that A and B are equally good, float64 [C].

    Under this hypothesis each discordant example is correct under A or under B with probability 1/2 (McNemar, 1947).
    The exact binomial test never rejects more often than its level. Without discordant examples the p-value is 1.
    """
    from scipy.stats import binom  # not at the top: `import jaxrobust` does without SciPy

    only_a, only_b = np.asarray(only_a), np.asarray(only_b)
    return np.minimum(1.0, 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def holm_correction(p_values) -> np.ndarray:
    """p-values corrected for their number (Holm, 1979), float64 [C]; nan values are not counted and stay nan.

    If corrected values of at most alpha are called significant, the probability of any false rejection is at most
    alpha, whatever the dependence between the tests.
    """
    p_values = np.asarray(p_values, float)
    corrected = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    ascending = tested[np.argsort(p_values[tested], kind="stable")]
    factors = np.arange(ascending.size, 0, -1)
    corrected[ascending] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[ascending]))
    return corrected


def paired_interval(only_a, only_b, count, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of the accuracy under B minus the accuracy under A: (low, high), float64 [C] each.

    Tango (Statistics in Medicine, 1998): the differences that a score test would not reject. It keeps its coverage with
    few discordant examples, and has a positive width without any. It is for a class chosen beforehand, and approximate,
    so it can exclude 0 although the exact `mcnemar_test` does not reject.

    Args:
        only_a, only_b: number of examples correct only under A, and only under B, integers [C].
        count: number of examples, integers [C]; without examples the interval is (-1, 1).
        confidence: two-sided level, strictly between 0 and 1.

    Raises:
        ValueError: the shapes differ, there are more discordant examples than examples, or a confidence outside (0, 1).
    """
    from scipy.special import ndtri  # not at the top: `import jaxrobust` does without SciPy

    z = ndtri((1 + checked_confidence(confidence)) / 2)
    only_a, only_b = np.asarray(only_a), np.asarray(only_b)
    discordant, count = checked_counts(only_a + only_b, count)
    gain = only_b - only_a
    estimate = gain / np.maximum(count, 1)

    def outside(delta):
        """Whether the score test rejects the difference `delta`."""
        # The share of examples correct only under A, estimated under the restriction to this difference: the larger
        # root of 2 n q^2 + linear q + constant = 0.
        linear = (2 * count - gain) * delta - discordant
        constant = -only_a * delta * (1 - delta)
        root = np.sqrt(np.maximum(linear**2 - 8 * count * constant, 0))
        share = (root - linear) / (4 * np.maximum(count, 1))
        variance = count * np.maximum(2 * share + delta * (1 - delta), 0)
        return np.abs(gain - count * delta) > z * np.sqrt(variance)

    def bound(end):
        inside, out = estimate, np.full(estimate.shape, end)
        for _ in range(_BISECTIONS):
            middle = (inside + out) / 2
            rejected = outside(middle)
            inside, out = np.where(rejected, inside, middle), np.where(rejected, middle, out)
        return np.where(count > 0, out, end)

    return bound(-1.0), bound(1.0)


@dataclasses.dataclass(frozen=True)
class WorstDifference:
    """Accuracy of B's worst class minus that of A's worst class, which may be another one. None without examples."""

    difference: float | None
    low: float | None
    high: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and not self.low <= 0 <= self.high


def worst_difference(pairs: PairedCounts, confidence: float = 0.95, paired_share=1.0) -> WorstDifference:
    """The difference of the lowest class accuracies, min B - min A. The interval accounts for the selection of classes.

    Let a be the true worst class of A, and k any class. Then

        min B - min A <= (accuracy of k under B) - (accuracy of a under A),    with equality for the worst k of B.

    If upper bounds of these differences hold for all k, the smallest of them is a bound of min B - min A. Class a is
    unknown, so the largest such bound over all a is used; the lower end is the same with A and B exchanged. An end
    fails with probability at most alpha / 2: two thirds of this for k = a, where the bound is the paired interval of
    one class, the rest divided among the other k by Bonferroni's inequality, whose bounds combine the exact bounds of
    both classes (Clopper & Pearson) by adding squared distances, as Newcombe (Statistics in Medicine, 1998) does.
    Neither kind of bound is exact, but with ties, where the selection matters, the interval is wider than necessary.
    The percentile bootstrap does not keep its level: its 95 % interval contained the truth in 4 of 10 simulated test
    sets.

    Args:
        confidence: two-sided level, strictly between 0 and 1.
        paired_share: factor, scalar or [C], on the distances of the ends of a class's paired interval from its
            difference, for results that will be averaged with others; see `seeds.averaged_share`.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    tail = (1 - checked_confidence(confidence)) / 2
    present = np.flatnonzero(pairs.count)
    if not present.size:
        return WorstDifference(None, None, None)
    count, correct_a, correct_b = pairs.count[present], pairs.correct_a[present], pairs.correct_b[present]
    same, others = (tail, tail) if present.size == 1 else (tail * 2 / 3, tail / 3 / (present.size - 1))
    low, high = paired_interval(pairs.only_a[present], pairs.only_b[present], count, 1 - 2 * same)
    gain, share = correct_b / count - correct_a / count, np.broadcast_to(paired_share, pairs.count.shape)[present]
    low, high = gain - share * (gain - low), gain + share * (high - gain)
    difference = (correct_b / count).min() - (correct_a / count).min()
    # The measured difference is biased if one minimum is affected by selection more than the other, so the interval may
    # not contain it. An interval without its own estimate would confuse, and widening it is safe.
    return WorstDifference(
        difference=float(difference),
        low=float(min(difference, -_most_gained(correct_b, correct_a, count, -low, others))),
        high=float(max(difference, _most_gained(correct_a, correct_b, count, high, others))),
    )


def _most_gained(correct_a, correct_b, count, same, tail: float) -> float:
    """Upper bound of min B - min A; see `worst_difference`.

    Args:
        correct_a, correct_b, count: integers [C].
        same: upper bound of B minus A for each class separately, [C].
        tail: probability with which the bound for the difference of two different classes fails.
    """
    a, b = correct_a / count, correct_b / count
    below_a = a - exact_bounds(correct_a, count, tail, tail)[0]
    above_b = exact_bounds(correct_b, count, tail, tail)[1] - b
    most = -np.inf
    for c in range(count.size):  # not all pairs at once: with many classes they would need much memory
        bounds = b - a[c] + np.hypot(above_b, below_a[c])
        bounds[c] = same[c]
        most = max(most, bounds.min())
    return most
