"""The security curve: what is left of each class as the attacker's radius grows.

    correct = correct_by_radius(labels, breaking, radii, num_classes)     # [R, C]
    half = median_radius(breaking[labels == c])

`breaking` [N] is each example's smallest breaking radius: 0 if it is wrong without an attack, infinite if no radius
that was tried breaks it. It is known on the grid of the radii that were tried, rounded up to the next.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import bdtr

from jaxrobust.classwise.counts import correct_counts


class Median(NamedTuple):
    """The median of breaking radii, which is the smallest radius at which half of the examples or more are broken.

    Infinite where that is beyond the largest radius tried; None without examples.

    Attributes:
        value: the median; of an even number of examples the lower one.
        low, high: interval, with the limits 0 and infinite where there are too few examples to say better.
    """

    value: float | None
    low: float | None
    high: float | None


def correct_by_radius(labels, breaking, radii, num_classes: int) -> np.ndarray:
    """Number of examples of each class that withstand each radius, int64 [R, C].

    Args:
        labels: [N] ints in [0, C).
        breaking: [N] smallest breaking radius.
        radii: [R].
    """
    breaking = np.asarray(breaking)
    return np.stack([correct_counts(labels, breaking > radius, num_classes) for radius in radii])


def median_radius(breaking, confidence: float = 0.95) -> Median:
    """The median and its interval, between two of the values themselves, which holds for any distribution.

    The k-th smallest value exceeds the true median only if fewer than k values do not, a binomial event of n and 1/2.
    Each end fails with at most half of 1 - confidence (the interval of the sign test).

    Args:
        breaking: [n] smallest breaking radii, infinite ones among them.
        confidence: strictly between 0 and 1.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1; got {confidence}")
    values = np.sort(np.asarray(breaking, float))
    n = values.size
    if not n:
        return Median(None, None, None)
    # The largest k with P(fewer than k below) <= tail; the other end is as far from the other side.
    k = int((bdtr(np.arange(n), n, 0.5) <= (1 - confidence) / 2).sum())
    low, high = (values[k - 1], values[n - k]) if k else (0.0, np.inf)
    return Median(float(values[(n - 1) // 2]), float(low), float(high))
