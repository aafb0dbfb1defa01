"""The security curve: the robust accuracy of each class as a function of the attacker's radius.

    correct = correct_by_radius(labels, breaking, radii, num_classes)     # [R, C]
    half = median_radius(breaking[labels == c])

`breaking` [N] is the smallest radius at which each example is not robust: 0 if it is misclassified without attack,
infinite if it is robust at every radius tried. The true value is rounded up to the next radius that was tried.
"""

from typing import NamedTuple

import numpy as np

from jaxrobust.classwise.counts import correct_counts
from jaxrobust.classwise.intervals import checked_confidence


class Median(NamedTuple):
    """The median of breaking radii: the smallest radius at which at most half of the examples are robust.

    Infinite if it is beyond the largest radius tried; None without examples.
    """

    value: float | None  # the median; for an even number of examples the lower of the two middle values
    # low, high: interval; (0, infinite) if there are too few examples.
    low: float | None
    high: float | None


def correct_by_radius(labels, breaking, radii, num_classes: int) -> np.ndarray:
    """Number of examples of each class that are robust at each radius, int64 [R, C].

    Args:
        labels: [N] ints in [0, C).
        breaking: [N] smallest breaking radius.
        radii: [R].
    """
    breaking = np.asarray(breaking)
    return np.stack([correct_counts(labels, breaking > radius, num_classes) for radius in radii])


def median_radius(breaking, confidence: float = 0.95) -> Median:
    """The median and its interval. The ends are two of the values; the interval is valid for any distribution.

    The k-th smallest value exceeds the true median only if fewer than k values do not exceed it, an event of the
    binomial distribution with n and 1/2. Each end fails with probability at most (1 - confidence) / 2 (the interval of
    the sign test).

    Args:
        breaking: [n] smallest breaking radii; they may be infinite.
        confidence: strictly between 0 and 1.

    Raises:
        ValueError: the confidence is outside (0, 1).
    """
    from scipy.special import bdtr  # not at the top: `import jaxrobust` does without SciPy

    checked_confidence(confidence)
    values = np.sort(np.asarray(breaking, float))
    n = values.size
    if not n:
        return Median(None, None, None)
    # The largest k with P(fewer than k below) <= tail; the upper end is the k-th largest value.
    k = int((bdtr(np.arange(n), n, 0.5) <= (1 - confidence) / 2).sum())
    low, high = (values[k - 1], values[n - k]) if k else (0.0, np.inf)
    return Median(float(values[(n - 1) // 2]), float(low), float(high))
