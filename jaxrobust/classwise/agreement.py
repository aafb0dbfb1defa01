"""Whether settings rank the classes in the same order: rank correlation of two settings, concordance of many.

    rank_correlation(accuracy_a, accuracy_b)
    concordance(is_robust, labels, settings, rng=rng).w

A setting is the whole configuration of a run except its seed; the mean accuracy over its seeds is ranked.

Settings are judged on the same images, and an image that is hard for one is hard for all: ranked on the same images,
settings agree even on classes that are equally robust. So one of two settings is ranked on one half of the images of
each class, and the other on the other half.
"""

import dataclasses
import math

import numpy as np
from scipy.linalg import hadamard
from scipy.stats import rankdata

from jaxrobust.classwise.counts import ratio
from jaxrobust.classwise.intervals import checked_confidence
from jaxrobust.classwise.permutation import label_indices

_DECIMALS = 12  # accuracies are rounded, so that equal means over seeds do not differ by rounding errors
_TOLERANCE = 1e-9  # statistics that differ from the observed one by less count as equal to it
_FOLDS = 8  # parts of the images of a class, a power of 2; half of the parts are half of the images
_SPLITS = 50  # random divisions into parts


@dataclasses.dataclass(frozen=True)
class Concordance:
    """The agreement of many settings on the order of the classes. nan if all classes are equal in every setting."""

    # Kendall's coefficient of concordance, from `mean_correlation`: 1 if all orders are the same, 1 / settings on
    # average for independent orders.
    w: float
    # low, high: its interval.
    low: float
    high: float
    p_value: float  # for the hypothesis that settings have no order of the classes in common
    # Spearman's correlation of each two settings as if each were judged on images of its own, [G, G].
    correlations: np.ndarray
    mean_correlation: float  # its mean over the pairs. Unlike w it does not depend on the number of settings.
    classes: int  # their number


def rank_correlation(a, b) -> float:
    """Spearman's correlation of two vectors; ties get their mean rank; nan if a vector is constant.

    It is the correlation coefficient of the ranks (Spearman, 1904); the formula with squared differences would be wrong
    with ties. Independent errors in the values bias it towards 0, common ones away from it.

    Args:
        a, b: [C], in any unit; classes that are nan in either are left out.

    Raises:
        ValueError: a and b are not two vectors of the same length.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"a {a.shape} and b {b.shape} must be vectors with one entry per class")
    there = ~(np.isnan(a) | np.isnan(b))
    ranks = centred_ranks(np.stack([a[there], b[there]]))
    return float(ratio(ranks[0] @ ranks[1], np.sqrt(np.square(ranks).sum(1).prod())))


def concordance(
    is_robust, labels, settings, *, rng: np.random.Generator, draws: int = 1000, confidence: float = 0.95
) -> Concordance:
    """Kendall's W over settings, each the mean of its runs, as if each setting were judged on images of its own.

    The correlation of two settings is the mean over random halves of the images of each class, one setting ranked on
    one half and the other on the other half. Half the images make it too small: it is multiplied by what all images
    would add to the same correlation r of a setting with itself (the geometric mean of both factors), so orders that
    truly differ are not made alike. That is 2 / (1 + r), by Spearman and Brown (1910), or less where r grows less from
    quarters to halves than they say, by 1/r(all) = 1/r(half) - (1/r(quarter) - 1/r(half)) / 2: ranks in which one or
    two classes lie far below many equal ones gain less from more images. Of one of ten classes 20 points below the
    others the true correlation is 0.29 on average; Spearman and Brown say 0.40, this 0.34.

    Interval: bootstrap over settings, the seeds of each, and the images within each half. A setting drawn twice agrees
    with itself trivially, so only pairs of different settings are used. Resamples contain the noise of the images
    twice, so their percentiles are shifted to have the observed W as their mean.

    p-value: the larger of two, each (b + 1) / (draws + 1) for the mean correlation of the halves. The class labels of
    the images are permuted, in all runs alike, which changes nothing if all classes are equally robust, whatever images
    have in common; and the classes of each setting, which changes nothing if the orders are unrelated. Each is compared
    by a single division into halves with the mean over many, which varies less, so p is rather too large.

    Args:
        is_robust: [R, N], whether each image is robust in each run; -1 where a run was not judged on it.
        labels: of the images, integers, [N]. Classes with fewer than two images in a run are left out.
        settings: [R] labels; runs of one setting differ only in their seed.
        rng: generator of all draws.
        draws: number of resamples, and of permutations.
        confidence: strictly between 0 and 1.

    Raises:
        ValueError: shapes do not fit, fewer than two settings, no draws, or a confidence outside (0, 1).
    """
    checked_confidence(confidence)
    if draws < 1:
        raise ValueError(f"draws must be at least 1; got {draws}")
    is_robust, labels = np.asarray(is_robust).astype(np.int8), np.asarray(labels)
    if is_robust.ndim != 2 or labels.shape != is_robust.shape[1:]:
        raise ValueError(f"is_robust {is_robust.shape} must be [R, N], with labels {labels.shape} one for each image")
    setting_R = label_indices("settings", settings, len(is_robust))
    if not setting_R.any():
        raise ValueError("all runs belong to one setting; need at least two settings to compare")
    halves = _Halves(is_robust, labels)
    member = (setting_R == np.arange(setting_R.max() + 1)[:, None]).astype(float)
    means, number = member / member.sum(1, keepdims=True), len(member)
    of_parts = np.mean([halves.correlations(halves.shuffled(rng), means) for _ in range(_SPLITS)], axis=0)
    if halves.classes < 2 or not of_parts[0].any():
        return Concordance(*[math.nan] * 4, np.full((number, number), math.nan), math.nan, halves.classes)

    def mean_of_pairs(correlations, times=None):
        pairs = np.ones((number, number)) if times is None else np.outer(times, times)
        np.fill_diagonal(pairs, 0.0)
        return (pairs * correlations).sum() / pairs.sum()

    def w_of(mean_correlation):
        return (1 + (number - 1) * mean_correlation) / number

    reached = np.zeros(2)
    for _ in range(draws):
        orders = rng.permuted(np.tile(np.arange(halves.classes), (number, 1)), axis=1)
        of_labels = halves.correlations(halves.permuted(rng), means)[0]
        of_orders = halves.correlations(halves.shuffled(rng), means, orders)[0]
        permuted = np.array([mean_of_pairs(of_labels), mean_of_pairs(of_orders)])
        reached += permuted >= mean_of_pairs(of_parts[0]) - _TOLERANCE
    resampled = []
    for times in _resampled(number, rng, draws):
        seeds = np.stack([rng.multinomial(int(of.sum()), of / of.sum()) / of.sum() for of in member])
        correlations = halves.correlations(halves.resampled(rng), seeds)
        resampled.append(w_of(mean_of_pairs(_of_full_length(*correlations), times)))
    correlations = _of_full_length(*of_parts)
    mean_correlation = float(mean_of_pairs(correlations))
    found = float(np.clip(w_of(mean_correlation), 0, 1))
    # The distances are widened, because resamples of few settings vary less than new settings would.
    tail, widened = (1 - confidence) / 2, math.sqrt(number / (number - 1))
    low, high = found + widened * (np.quantile(resampled, [tail, 1 - tail]) - np.mean(resampled))
    np.fill_diagonal(correlations, 1.0)
    return Concordance(
        w=found,
        low=float(np.clip(low, 0, found)),
        high=float(np.clip(high, found, 1)),
        p_value=float((reached.max() + 1) / (draws + 1)),
        correlations=np.clip(correlations, -1, 1),
        mean_correlation=mean_correlation,
        classes=halves.classes,
    )


class _Halves:
    """Rank correlations of settings over disjoint halves, and quarters, of the images of each class."""

    def __init__(self, is_robust, labels):
        there = is_robust >= 0
        names, class_N = np.unique(labels, return_inverse=True)
        least = np.array([there[:, class_N == c].sum(1).min() for c in range(names.size)])
        kept = np.isin(class_N, np.flatnonzero(least >= 2))
        self._kept = np.flatnonzero(kept)[np.argsort(class_N[kept], kind="stable")]
        self._right, self._there = (is_robust == 1)[:, self._kept], there[:, self._kept]
        self._class_N = np.unique(class_N[self._kept], return_inverse=True)[1]
        images = np.bincount(self._class_N)
        self.classes = images.size  # those with at least two images in every run
        # Each class has the same number of folds; their starts and sizes are in images sorted by class.
        folds = 2 ** int(math.log2(min(_FOLDS, images.min(initial=_FOLDS))))
        starts = (np.cumsum(images) - images)[:, None] + np.arange(folds) * images[:, None] // folds
        self.starts = starts.ravel()
        self.sizes = np.diff(self.starts, append=self._class_N.size)
        self._everywhere = bool(self._there.all())
        # Any two folds are in different halves equally often. The complement of a half, or the other quarter of it, is
        # as far from the other end.
        signs = hadamard(folds)[1:]
        halves = np.roll(signs, 1, axis=0)
        one, other = (np.concatenate([chosen & (halves == of) for of in (1, -1)]) for chosen in (signs > 0, signs < 0))
        quarters = [one, other[::-1]] if folds > 2 else []
        self._chosen = np.concatenate([signs > 0, signs[::-1] < 0, *quarters]).astype(float)
        self._halves = 2 * len(signs)
        self._images = (self._chosen @ self.sizes.reshape(self.classes, -1).T)[:, None] if self.classes else None

    def shuffled(self, rng) -> np.ndarray:
        """An order of the images that puts those of each class into random folds."""
        return np.lexsort((rng.random(self._class_N.size), self._class_N))

    def permuted(self, rng) -> np.ndarray:
        """An order of the images that gives them to random classes."""
        return rng.permutation(self._class_N.size)

    def resampled(self, rng) -> np.ndarray:
        """Images drawn with replacement within random folds, so that no image is in two of them."""
        start, size = (np.repeat(of, self.sizes) for of in (self.starts, self.sizes))
        return self.shuffled(rng)[start + (rng.random(size.size) * size).astype(int)]

    def correlations(self, images, means, orders=None) -> np.ndarray:
        """Mean over halves, and over quarters, of the correlation of setting g on one with h on the other, [2, G, G].

        Args:
            images: in which fold each image is: indices of images, in the order of the folds.
            means: weights of the runs in each setting, [G, R].
            orders: in which the classes of each setting are taken, [G, C].
        """
        if self.classes < 2:
            return np.zeros((2, len(means), len(means)))
        right = self._half_sums(self._right, images)
        there = self._images if self._everywhere else self._half_sums(self._there, images)
        # Without images in a half nothing is known.
        ranks = unit_ranks(means @ np.where(there > 0, right / np.maximum(there, 1), 0.5))
        if orders is not None:
            ranks = np.take_along_axis(ranks, orders[None], axis=2)
        parts = np.split(ranks, [self._halves])
        return np.stack([np.einsum("sgc,shc->gh", of, of[::-1]) / max(len(of), 1) for of in parts])

    def _half_sums(self, of, images) -> np.ndarray:
        """[halves, R, C] of [R, N]."""
        folds = np.add.reduceat(of[:, images], self.starts, axis=1, dtype=np.int32)
        return np.tensordot(self._chosen, folds.reshape(len(of), self.classes, -1), (1, 2))


def _of_full_length(of_halves, of_quarters) -> np.ndarray:
    """Correlations [G, G] of all images, from those of parts; on the diagonals is each setting with itself."""
    half, quarter = np.diag(of_halves), np.diag(of_quarters)
    # The absolute value makes chance as large on both sides of 0; a true correlation with itself is not negative.
    factor, known = 2 / (1 + np.abs(half)), (half > 0) & (quarter > 0)
    growth = np.clip(half / np.where(known, quarter, 1.0), 1.0, 2.0)
    factor = np.sqrt(np.where(known, np.minimum(factor, 2 / (3 - growth)), factor))
    return of_halves * np.outer(factor, factor)


def centred_ranks(values) -> np.ndarray:
    """Ranks of the classes minus the mean rank, [..., C]; ties get their mean rank."""
    return rankdata(np.round(values, _DECIMALS), axis=-1) - (values.shape[-1] + 1) / 2


def unit_ranks(values) -> np.ndarray:
    """Ranks of the classes, [..., C], mean 0 and length 1, or all 0. Their inner products are correlations."""
    ranks = centred_ranks(values) if values.shape[-1] else values
    lengths = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return np.divide(ranks, lengths, out=np.zeros_like(ranks, dtype=float), where=lengths > 0)


def _resampled(number: int, rng, draws: int) -> np.ndarray:
    """How often each setting is drawn, [draws, number]; every draw has at least two different settings."""
    times = rng.multinomial(number, np.full(number, 1 / number), size=draws)
    while (single := (times == number).any(1)).any():
        times[single] = rng.multinomial(number, np.full(number, 1 / number), size=int(single.sum()))
    return times
