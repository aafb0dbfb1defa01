"""Differences between classes beyond chance: whether there are any, and how large they are without that of the images.

The measured accuracies of equal classes differ, the more the fewer images there are: of ten classes at 60 % with 50
images each, the best and the worst are 21 points apart on average. Here the sampling variance is taken off.

Everywhere `correct` and `count` are integers [C]; classes without examples are left out. ValueError: the shapes differ,
not 0 <= correct <= count, or a confidence outside (0, 1).
"""

import math
from typing import NamedTuple

import numpy as np

from jaxrobust.classwise.counts import present_counts
from jaxrobust.classwise.intervals import checked_confidence
from jaxrobust.classwise.worst import worst_class

_DRAWS = 2000
_FEW = 5  # expected images, right or wrong, below which the chi-square distribution is not to be relied upon


class Equality(NamedTuple):
    """The test that all classes have the same accuracy: Pearson's chi-square, its degrees of freedom, and p-value."""

    chi_square: float
    degrees: int
    p_value: float


class Corrected(NamedTuple):
    """A figure with the sampling variance taken off, and its interval."""

    value: float
    low: float
    high: float


def equality_test(correct, count) -> Equality:
    """Test whether all classes have the same accuracy.

    With fewer than 5 images expected right, or wrong, in a class, the p-value is the share (b + 1) / 2001 of random
    assignments of the correct examples to the classes that reach the chi-square (the conditional test; with a seed of
    its own, so the same counts give the same value). With fewer than two classes, p is 1.
    """
    from scipy.special import chdtrc  # not at the top: `import jaxrobust` does without SciPy

    correct, count = present_counts(correct, count)
    right, total = int(correct.sum()), int(count.sum())
    degrees = max(count.size - 1, 0)
    if not degrees or right in (0, total):
        return Equality(0.0, degrees, 1.0)
    expected, rate = count * (right / total), right / total

    def chi_square(drawn):
        return (np.square(drawn - expected) / expected).sum(-1) / (1 - rate)

    found = float(chi_square(correct))
    if min(expected.min(), (count - expected).min()) >= _FEW:
        return Equality(found, degrees, float(chdtrc(degrees, found)))
    drawn = np.random.default_rng(0).multivariate_hypergeometric(count, right, _DRAWS, method="marginals")
    reached = (chi_square(drawn) >= found * (1 - 1e-9)).sum()
    return Equality(found, degrees, float((reached + 1) / (_DRAWS + 1)))


def corrected(correct, count, confidence: float = 0.95) -> dict[str, Corrected]:
    """Spread of the class accuracies without the part of chance: std, cv, nsd, gap and worst_class_accuracy.

    std: its square is the variance of the measured accuracies minus their mean sampling variance, a (1 - a) / (n - 1)
    times 1 - 1/C; not below 0. Its interval inverts the noncentral chi-square distribution of the variance between
    classes, with Satterthwaite's (1946) degrees of freedom where the sampling variances of the classes differ. It
    starts at 0 where equality of the classes is not rejected, and where they differ less than chance lets them its
    upper end is that of classes that differ as much as this. cv and nsd divide it by the mean (by 1 minus the mean),
    whose error is in their intervals.

    gap and worst class: of the accuracies shrunk towards their mean until they have this std (constrained empirical
    Bayes estimates: Louis, 1984). The interval of the gap is that of std in the same proportion, combined with Wald's
    for the difference of the two ends; that of the worst class is that of `worst_class`.
    """
    from scipy.special import ndtri

    tail = (1 - checked_confidence(confidence)) / 2
    correct, count = present_counts(correct, count)
    if not count.size:
        return {}
    accuracy, classes = correct / count, count.size
    mean, measured, likely = accuracy.mean(), accuracy.var(), (correct + 0.5) / (count + 1)
    # A single image tells nothing of its variance: that of the mean of the classes.
    of_images = np.where(count > 1, accuracy * (1 - accuracy) / np.maximum(count - 1, 1), mean * (1 - mean)).mean()
    std = math.sqrt(max(0.0, measured - of_images * (1 - 1 / classes)))
    low, high = _std_interval(measured, likely * (1 - likely) / count, tail)
    std = Corrected(std, min(low, std), max(high, std))

    def scaled(factor, error=0.0):
        """The std in other units; `error` is a standard error that adds to the interval in squares."""
        value, low, high = (float(factor * of) for of in std)
        more = -ndtri(tail) * error
        return Corrected(value, max(0.0, value - math.hypot(value - low, more)), value + math.hypot(high - value, more))

    def over(part):  # a mean that is not known either
        error = std.value / part**2 * math.sqrt(of_images / classes) if part > 0 else math.nan
        return scaled(1 / part if part > 0 else math.nan, error)

    kept = std.value / math.sqrt(measured) if measured > 0 else 0.0
    # Where classes do differ, what is left of the chance of the best and of the worst counts too.
    of_ends = sum(likely[c] * (1 - likely[c]) / count[c] for c in (accuracy.argmin(), accuracy.argmax()))
    # The largest gap of any classes with this std, where the measured ones do not say.
    gap_over_std = np.ptp(accuracy) / math.sqrt(measured) if np.ptp(accuracy) else math.sqrt(2 * classes)
    gap = scaled(gap_over_std, kept * math.sqrt(of_ends))
    worst = worst_class(correct, count, confidence)
    return {
        "std": std,
        "cv": over(mean),
        "nsd": over(1 - mean),
        "gap": gap._replace(high=min(1.0, gap.high)),
        "worst_class_accuracy": Corrected(float(mean + kept * (accuracy.min() - mean)), worst.low, worst.high),
    }


def _std_interval(measured: float, sampling, tail: float) -> tuple[float, float]:
    """Limits of the true accuracies' standard deviation, from the variance of the measured ones, and of each [C]."""
    from scipy.special import chndtrinc

    classes = sampling.size
    if classes < 2:
        return 0.0, 0.0
    # Mean and half the variance of the sum of squared errors from their mean, and the chi-square that has both.
    expected = sampling.sum() * (1 - 1 / classes)
    scatter = np.square(sampling).sum() * (1 - 2 / classes) + (sampling.sum() / classes) ** 2
    degrees, unit = expected**2 / scatter, scatter / expected
    statistic = classes * measured / unit
    # Of the parameter with which no smaller (no larger) statistic has this probability; nan if there is none.
    least = chndtrinc(statistic, degrees, 1 - tail)
    most = chndtrinc(max(statistic, degrees), degrees, tail)
    low, high = (math.sqrt(float(np.nan_to_num(of)) * unit / classes) for of in (least, most))
    return low, high
