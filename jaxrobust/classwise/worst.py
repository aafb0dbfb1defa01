"""Which class is the worst, and its accuracy, if the class was selected by the same results.

The lowest of many noisy accuracies tends to be below the true minimum, and an interval for a class chosen beforehand
does not have its coverage. The functions here treat the test images of the C classes as C independent binomial samples.
True accuracies are those on unlimited test images.
"""

import dataclasses

import numpy as np

from jaxrobust.classwise.counts import checked_counts
from jaxrobust.classwise.intervals import checked_confidence

DRAWS_AT_ONCE = 2**22  # accuracies in memory, 32 MiB
_GRID = 32  # widths, and means, of the distributions that class accuracies may be drawn from


@dataclasses.dataclass(frozen=True)
class WorstClass:
    """What is known about the worst class: plain numbers and None, ready for JSON."""

    # indices of the classes with the lowest measured accuracy; several if tied, empty without examples.
    classes: tuple[int, ...]
    # their accuracy, which is biased low; more so if more classes are close to the worst. None without examples.
    accuracy: float | None
    # low, high: interval of the accuracy of the true worst class, whichever it is. None without examples.
    low: float | None
    high: float | None
    candidates: tuple[int, ...]  # indices of the classes that may be the true worst class, lowest accuracy first


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
    """Lower and upper bounds of Clopper & Pearson (1934) for each class, float64 [C] each, from integers [C]. That of a
    class fails with a probability of `low_tail`, and of `high_tail`, at most.
    """
    from scipy.special import betaincinv  # not at the top: `import jaxrobust` does without SciPy

    wrong = count - correct
    # Quantiles of beta distributions; where a parameter is 0 the bound is that end of [0, 1].
    low = np.where(correct > 0, betaincinv(np.maximum(correct, 1), wrong + 1, low_tail), 0.0)
    high = np.where(wrong > 0, 1 - betaincinv(np.maximum(wrong, 1), correct + 1, high_tail), 1.0)
    return low, high


def probability_worst(correct, count, *, draws: int = 10_000, seed: int = 0) -> np.ndarray:
    """The probability of each class to be the one with the lowest true accuracy, float64 [C].

    The sum is 1, or 0 if no class has an example. The true accuracies are taken as draws of one beta distribution whose
    mean and width are not known either (empirical Bayes, beta-binomial; Casella, 1985). So what a class shares with the
    others tempers what its own images say: of ten equal classes with 50 images each, resampling the images gives the
    one that happens to be lowest 44 % on average, this 26 %. In simulations of such classes with a standard deviation
    of 7 points, the likeliest was given 39 % and was the worst in 37 %; with 15 points, 65 and 68 %. One beta has one
    hump: where the classes fall into groups, or one lies far below the others, it says too little of that class (66 %
    where it was the worst in 97 %) or too much of one among several low ones (64 % for 49 %).

    Args:
        correct, count: integers [C].
        draws: of all accuracies; the standard error of a figure is at most 0.5 / sqrt(draws). Fewer are made for more
            than 400 classes.
        seed: the same seed gives the same figures.

    Raises:
        ValueError: the shapes differ, not 0 <= correct <= count, or no draws.
    """
    correct, count = checked_counts(correct, count)
    if draws < 1:
        raise ValueError(f"draws must be at least 1; got {draws}")
    probability = np.zeros(count.shape)
    present = np.flatnonzero(count)
    if not present.size:
        return probability
    correct, count, rng = correct[present], count[present], np.random.default_rng(seed)
    a, b, weight = _beta_parameters(correct, count)
    chosen = rng.choice(weight.size, min(draws, max(1, DRAWS_AT_ONCE // present.size)), p=weight)
    accuracy = rng.beta(a[chosen, None] + correct, b[chosen, None] + count - correct)
    share = np.bincount(accuracy.argmin(1), minlength=present.size) / chosen.size
    # Classes with the same counts have the same probability.
    _, alike = np.unique(np.stack([correct, count]), axis=1, return_inverse=True)
    probability[present] = (np.bincount(alike.ravel(), share) / np.bincount(alike.ravel()))[alike.ravel()]
    return probability


def _beta_parameters(correct, count) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid of beta distributions of class accuracies: their parameters a and b, and their posterior weights, [G]."""
    from scipy.special import betaln  # not at the top: `import jaxrobust` does without SciPy

    # The prior is uniform in the width (root of variance over mean (1 - mean)) and in the arcsine of the mean's root.
    step = (np.arange(_GRID) + 0.5) / _GRID
    width = 0.999 * step**2  # narrow ones lie closer together
    centre = np.arcsin(np.sqrt((correct.sum() + 0.5) / (count.sum() + 1)))
    # Four standard deviations of the mean.
    angle = centre + 2 * np.sqrt(1 / count.sum() + width[:, None] ** 2 / count.size) * np.linspace(-1, 1, _GRID)
    mean = np.sin(np.clip(angle, 1e-3, np.pi / 2 - 1e-3)) ** 2
    concentration = 1 / width[:, None] ** 2 - 1
    a, b = (mean * concentration).ravel(), ((1 - mean) * concentration).ravel()
    prior = np.broadcast_to(step[:, None] * np.ptp(angle, axis=1)[:, None], mean.shape).ravel()
    pairs, times = np.unique(np.stack([correct, count - correct]), axis=1, return_counts=True)
    likelihood = (betaln(a[:, None] + pairs[0], b[:, None] + pairs[1]) - betaln(a, b)[:, None]) @ times
    weight = prior * np.exp(likelihood - likelihood.max())
    return a, b, weight / weight.sum()
