"""Which class is the worst, and its accuracy, if the class was selected by the same results.

The lowest of many noisy accuracies tends to be below the true minimum, and an interval for a class chosen beforehand
does not have its coverage. The functions here treat the test images of the C classes as C independent binomial samples.
True accuracies are those on unlimited test images.
"""

import dataclasses

import numpy as np

from jaxrobust.classwise.counts import checked_counts
from jaxrobust.classwise.intervals import checked_confidence

_DRAWS_AT_ONCE = 2**22  # counts in memory, 32 MiB


@dataclasses.dataclass(frozen=True)
class WorstClass:
    """What is known about the worst class: plain numbers and None, ready for JSON.

    Attributes:
        classes: indices of the classes with the lowest measured accuracy; several if tied, empty without examples.
        accuracy: their accuracy, which is biased low; more so if more classes are close to the worst. None without
            examples.
        low, high: interval of the accuracy of the true worst class, whichever it is. None without examples.
        candidates: indices of the classes that may be the true worst class, lowest accuracy first.
    """

    classes: tuple[int, ...]
    accuracy: float | None
    low: float | None
    high: float | None
    candidates: tuple[int, ...]


def worst_class(correct, count, confidence: float = 0.95) -> WorstClass:
    """The worst class, with an interval and a set of candidates that account for its selection by the same results.

    With probability at least `confidence`, for any true accuracies, the interval covers the lowest true accuracy, and
    the candidates include the class that has it (each of them separately if several are tied).

    Let alpha = 1 - confidence. L_c is an exact (Clopper & Pearson, 1934) lower bound of class c that fails with
    probability at most alpha / 2. U_c are exact upper bounds that each fail with 1 - (1 - alpha / 2) ** (1 / C), so all
    hold together (Sidak, 1967; exact for independent samples). The interval is [min L_c, min U_c], the candidates are
    the classes with L_c <= min U_c. Lower bounds need no correction, as only that of the true worst class has to hold.
    The percentile bootstrap of the minimum guarantees neither, because resampling repeats the selection.

    Args:
        correct, count: integers [C]; classes without examples are left out.
        confidence: strictly between 0 and 1.

    Raises:
        ValueError: the shapes differ, not 0 <= correct <= count, or a confidence outside (0, 1).
    """
    tail = (1 - checked_confidence(confidence)) / 2
    correct, count = checked_counts(correct, count)
    present = np.flatnonzero(count)
    if not present.size:
        return WorstClass((), None, None, None, ())
    # Sidak's level, computed without cancellation for many classes.
    low, high = exact_bounds(correct[present], count[present], tail, -np.expm1(np.log1p(-tail) / present.size))
    accuracy = correct[present] / count[present]
    order = np.argsort(accuracy, kind="stable")
    return WorstClass(
        classes=tuple(present[accuracy == accuracy.min()].tolist()),
        accuracy=float(accuracy.min()),
        low=float(low.min()),
        high=float(high.min()),
        candidates=tuple(present[order[low[order] <= high.min()]].tolist()),
    )


def exact_bounds(correct, count, low_tail: float, high_tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of Clopper & Pearson (1934) for each class, float64 [C] each.

    Args:
        correct, count: integers [C].
        low_tail, high_tail: probabilities with which the bound of a class fails, at most.
    """
    from scipy.special import betaincinv  # not at the top: `import jaxrobust` does without SciPy

    wrong = count - correct
    # Quantiles of beta distributions; where a parameter is 0 the bound is that end of [0, 1].
    low = np.where(correct > 0, betaincinv(np.maximum(correct, 1), wrong + 1, low_tail), 0.0)
    high = np.where(wrong > 0, 1 - betaincinv(np.maximum(wrong, 1), correct + 1, high_tail), 1.0)
    return low, high


def probability_worst(correct, count, *, resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """How often each class is the worst if the examples of each class are resampled, as fractions, float64 [C].

    A resample in which m classes are tied for the lowest accuracy counts 1 / m for each. The sum is 1, or 0 if no class
    has an example. A class with none or all correct does not vary, so with few examples the figures overstate the
    certainty; the candidates of `worst_class` are the safer statement.

    Args:
        correct, count: integers [C].
        resamples: the standard error of a figure is at most 0.5 / sqrt(resamples).
        seed: the same seed gives the same figures.

    Raises:
        ValueError: the shapes differ, not 0 <= correct <= count, or no resamples.
    """
    correct, count = checked_counts(correct, count)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1; got {resamples}")
    probability = np.zeros(count.shape)
    present = np.flatnonzero(count)
    if not present.size:
        return probability
    correct, count = correct[present], count[present]
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // present.size)
    for start in range(0, resamples, at_once):
        size = (min(at_once, resamples - start), present.size)
        # Equal fractions are equal floats: division is rounded correctly.
        accuracy = rng.binomial(count, correct / count, size) / count
        is_worst = accuracy == accuracy.min(1, keepdims=True)
        probability[present] += (is_worst / is_worst.sum(1, keepdims=True)).sum(0)
    return probability / resamples
