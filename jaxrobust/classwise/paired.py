"""Compare two models, or two attacks on one model, on the same examples, class by class.

Examples on which both are alike do not contribute to the difference, so all figures use the counts of discordant
examples: correct only under A, or only under B. Differences are B minus A. Intervals and tests cover the draw of the
test examples. They do not cover the training seed: another run of A's config also differs from A.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxrobust.classwise import seeds
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


def holm_correction(p_values, weights=None) -> np.ndarray:
    """p-values corrected for their number (Holm, 1979), float64 [C]; nan values are not counted and stay nan.

    If corrected values of at most alpha are called significant, the probability of any false rejection is at most
    alpha, whatever the dependence between the tests.

    Args:
        weights: positive, [C]: the share of alpha that each test gets, up to a factor; equal shares if None.
    """
    p_values = np.asarray(p_values, float)
    weights = np.ones(p_values.shape) if weights is None else np.asarray(weights, float)
    corrected = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    ascending = tested[np.argsort(p_values[tested] / weights[tested], kind="stable")]
    left = np.cumsum(weights[ascending][::-1])[::-1]  # weight of those not rejected yet
    factors = left / weights[ascending]
    corrected[ascending] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[ascending]))
    return corrected


def holm_over_groups(groups: Sequence) -> list[np.ndarray]:
    """`holm_correction` of all tests together, where each group gets an equal share of alpha.

    A question of few tests then keeps most of its power beside one of many. p-values that are nan are not counted.
    """
    groups = [np.asarray(group, float) for group in groups]
    numbers = [max(np.sum(~np.isnan(group)), 1) for group in groups]
    weights = np.concatenate([np.full(group.size, 1 / n) for group, n in zip(groups, numbers, strict=True)])
    corrected = holm_correction(np.concatenate(groups), weights)
    return np.split(corrected, np.cumsum([group.size for group in groups])[:-1])


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
    low, high = (_paired_bound(only_a, only_b, count, confidence, end) for end in (-1.0, 1.0))
    return low, high


def _paired_bound(only_a, only_b, count, confidence: float, end: float) -> np.ndarray:
    """The end of `paired_interval` towards `end`, -1 or 1."""
    from scipy.special import ndtri  # not at the top: `import jaxrobust` does without SciPy

    z = ndtri((1 + checked_confidence(confidence)) / 2)
    only_a, only_b = np.asarray(only_a), np.asarray(only_b)
    discordant, count = checked_counts(only_a + only_b, count)
    gain = only_b - only_a

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

    inside, out = gain / np.maximum(count, 1), np.full(gain.shape, end)
    for _ in range(_BISECTIONS):
        middle = (inside + out) / 2
        rejected = outside(middle)
        inside, out = np.where(rejected, inside, middle), np.where(rejected, middle, out)
    return np.where(count > 0, out, end)


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


@dataclasses.dataclass(frozen=True)
class PairedSeeds:
    """The counts of pairs of runs of A and B, one pair per training seed, all on the same test images."""

    count: np.ndarray  # images of each class, [C]
    # correct_a, correct_b, only_a, only_b: of each pair, as in `PairedCounts`, [S, C].
    correct_a: np.ndarray
    correct_b: np.ndarray
    only_a: np.ndarray
    only_b: np.ndarray
    # share, share_a, share_b: [C] or 1; see `seeds.averaged_share`, of the differences, and of the verdicts under A,
    # and under B.
    share: np.ndarray | float = 1.0
    share_a: np.ndarray | float = 1.0
    share_b: np.ndarray | float = 1.0
    # whether one of A and B changes heads of the other's checkpoints, so that both share their chance.
    heads: bool = False

    @classmethod
    def of(cls, labels, is_correct_a, is_correct_b, num_classes: int, heads: bool = False) -> "PairedSeeds":
        """Count verdicts, bool [S, N] each, on images of the classes `labels` [N]."""
        a, b = np.asarray(is_correct_a), np.asarray(is_correct_b)
        shares = (seeds.averaged_share(labels, of, num_classes) for of in (b.astype(int) - a, a, b))
        pairs = [paired_counts(labels, *of, num_classes) for of in zip(a, b, strict=True)]
        names = ("correct_a", "correct_b", "only_a", "only_b")
        counts = (np.stack([getattr(pair, name) for pair in pairs]) for name in names)
        return cls(pairs[0].count, *counts, *shares, heads)

    @classmethod
    def one(cls, pairs: PairedCounts) -> "PairedSeeds":
        """A single pair."""
        return cls(pairs.count, *(of[None] for of in (pairs.correct_a, pairs.correct_b, pairs.only_a, pairs.only_b)))

    def exchanged(self) -> "PairedSeeds":
        """With A and B exchanged."""
        counts = self.correct_b, self.correct_a, self.only_b, self.only_a
        return PairedSeeds(self.count, *counts, self.share, self.share_b, self.share_a, self.heads)

    @property
    def accuracy(self) -> tuple[np.ndarray, np.ndarray]:
        """Under A, and under B, [S, C]."""
        return ratio(self.correct_a, self.count), ratio(self.correct_b, self.count)

    def below(self, paired_tail: float, tail: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances [C] from the means over the pairs, by the draw of the images: of the paired difference to its lower
        bound, which fails with `paired_tail`, of B's accuracy to its lower one, and of A's to its upper one, by `tail`.
        """
        count = np.broadcast_to(self.count, self.only_a.shape)

        def distance(end, of):
            return np.abs(np.mean(end.reshape(count.shape) - of, 0))

        a, b = self.accuracy
        flat = count.ravel()
        low = _paired_bound(self.only_a.ravel(), self.only_b.ravel(), flat, 1 - 2 * paired_tail, -1.0)
        low_b, _ = exact_bounds(self.correct_b.ravel(), flat, tail, tail)
        _, high_a = exact_bounds(self.correct_a.ravel(), flat, tail, tail)
        return self.share * distance(low, b - a), self.share_b * distance(low_b, b), self.share_a * distance(high_a, a)


def worst_difference(
    pairs: PairedCounts | PairedSeeds,
    confidence: float = 0.95,
    *,
    worst_a: Sequence[int] | None = None,
    worst_b: Sequence[int] | None = None,
    others: Sequence[PairedSeeds] = (),
) -> WorstDifference:
    """The difference of the lowest class accuracies, min B - min A. The interval accounts for the selection of classes.

    An accuracy is the expected one, over images and, with several pairs, over training seeds. For any classes a, b

        (lowest accuracy under B) - (accuracy of a under A)  <=  min B - min A  <=  (accuracy of b under B) - (lowest
        under A),

    with equality for the worst classes. So if other images, such as a validation split, name the worst class a of A,
    the lower end is the smallest over all classes k of the lower bounds of (k under B) - (a under A): an
    intersection-union test (Berger, 1982), in which each bound may fail with the whole probability of an end, alpha /
    2, because that of the true worst class of B alone has to hold. The upper end is the same with A and B exchanged and
    the worst class b of B named. A wrong name costs power, not validity.

    Where several classes are named, each is tried for a, and the largest bound taken; without a name all are. To allow
    for that, of alpha / 2 two thirds go to a = k and the rest to the others, by Bonferroni's inequality.

    Images: the bound for a = k is the paired interval of one class; the others combine the exact bounds of both classes
    (Clopper & Pearson) by adding squared distances, as Newcombe (Statistics in Medicine, 1998) does. Seeds, from
    `seeds.MIN_SEEDS` pairs on: Student's t of the differences of the pairs, added in squares; see `seeds.seed_mean`.
    The percentile bootstrap does not keep its level: its 95 % interval contained the truth in 4 of 10 simulated test
    sets.

    Args:
        pairs: one pair of runs, or one per seed.
        confidence: two-sided level, strictly between 0 and 1.
        worst_a, worst_b: the classes that may be the worst of A, and of B, named without these examples; best a single
            one. None: any.
        others: pairs of other methods with the same A. The spread over seeds of each class is pooled with theirs, or
            is that of `pairs` alone where it is larger.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    tail = (1 - checked_confidence(confidence)) / 2
    of = pairs if isinstance(pairs, PairedSeeds) else PairedSeeds.one(pairs)
    present = np.flatnonzero(of.count)
    if not present.size:
        return WorstDifference(None, None, None)
    a, b = (accuracy.mean(0)[present].min() for accuracy in of.accuracy)
    spread = None
    if len(of.only_a) >= seeds.MIN_SEEDS:
        spread = seeds.paired_spread(
            [(*(side[:, present] for side in each.accuracy), each.heads) for each in (of, *others)]
        )
    # The measured difference lies between both ends, since each is a bound for one class of A, and of B.
    return WorstDifference(
        difference=float(b - a),
        low=float(_least_gain(of, worst_a, present, tail, spread)),
        high=float(-_least_gain(of.exchanged(), worst_b, present, tail, spread)),
    )


def _least_gain(of: PairedSeeds, named: Sequence[int] | None, present, tail: float, spread) -> float:
    """Lower bound of min B - min A, failing with probability `tail`; see `worst_difference`."""
    candidates = present if named is None else np.intersect1d(named, present)
    candidates = candidates if candidates.size else present
    several = candidates.size - 1
    same, across = (tail * 2 / 3, tail / 3 / several) if several else (tail, tail)
    paired, below_b, above_a = of.below(same, across)
    each_a, each_b = of.accuracy
    most = np.full(present.size, -np.inf)
    for c in candidates:  # not all pairs at once: with many classes they would need much memory
        is_same, b = present == c, each_b[:, present]
        distance = np.where(is_same, paired[present], np.hypot(below_b[present], above_a[c]))
        if spread:
            tails = np.where(is_same, same, across)
            distance = np.hypot(distance, seeds.paired_distance(each_a[:, [c]], b, is_same, spread, tails, of.heads))
        most = np.maximum(most, b.mean(0) - each_a[:, c].mean() - distance)
    return most.min()
