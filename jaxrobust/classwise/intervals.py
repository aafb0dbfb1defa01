"""Confidence intervals for the accuracy of a class, and for the mean of several class accuracies."""

import numpy as np

from jaxrobust.classwise.counts import checked_counts


def wilson_interval(correct, count, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson score interval of each class accuracy: (low, high), float64 [C] each.

    Unlike p +- z s.e. it stays inside [0, 1] and keeps its coverage near 0 and 1 (Wilson, 1927), where the worst
    classes under attack are. It covers neither the selection of the worst class from the results, nor the training
    seed.

    Args:
        correct, count: integers [C]; without examples the interval is (0, 1).
        confidence: two-sided level, strictly between 0 and 1.

    Raises:
        ValueError: the shapes differ, not 0 <= correct <= count, or a confidence outside (0, 1).
    """
    from scipy.special import ndtri  # not at the top: `import jaxrobust` does without SciPy

    checked_confidence(confidence)
    correct, count = checked_counts(correct, count)
    z = ndtri((1 + confidence) / 2)
    centre = (correct + z**2 / 2) / (count + z**2)
    # The root of correct * wrong / count, kept finite (zero) where count is 0.
    variance = correct * (count - correct) / np.maximum(count, 1)
    half_width = z * np.sqrt(variance + z**2 / 4) / (count + z**2)
    # With 0 or all correct the exact bound is 0 or 1; rounding must not exclude the accuracy itself.
    low = np.where(correct == 0, 0.0, centre - half_width)
    high = np.where(correct == count, 1.0, centre + half_width)
    return low, high


def balanced_interval(correct, count, confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of the mean of the class accuracies; None if no class has examples.

    The interval of Zou, Huang & Zhang (2009) for a linear function of independent proportions: the distance of each end
    from the mean is the root of the sum of squared distances between class accuracies and their Wilson limits, over C.

    Args:
        correct, count, confidence: as for `wilson_interval`; classes without examples are left out.

    Raises:
        ValueError: as for `wilson_interval`.
    """
    low, high = wilson_interval(correct, count, confidence)
    present = np.asarray(count) > 0
    if not present.any():
        return None
    accuracy = np.asarray(correct)[present] / np.asarray(count)[present]
    below, above = (np.linalg.norm(limit[present] - accuracy) / accuracy.size for limit in (low, high))
    return float(max(accuracy.mean() - below, 0.0)), float(min(accuracy.mean() + above, 1.0))


def checked_confidence(confidence: float) -> float:
    """The confidence, after checking that it is in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1; got {confidence}")
    return confidence
