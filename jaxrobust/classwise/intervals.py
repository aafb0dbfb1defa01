"""Confidence intervals for the accuracy of a class, and for the mean of several class accuracies."""

import numpy as np

from jaxrobust.classwise.counts import checked_counts, present_counts


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
    checked_confidence(confidence)
    correct, count = checked_counts(correct, count)
    low, high = _wilson(correct, count, confidence)
    # With 0 or all correct the exact bound is 0 or 1; rounding must not exclude the accuracy itself.
    return np.where(correct == 0, 0.0, low), np.where(correct == count, 1.0, high)


def _wilson(correct, count, confidence: float):
    from scipy.special import ndtri  # not at the top: `import jaxrobust` does without SciPy

    z = ndtri((1 + confidence) / 2)
    centre = (correct + z**2 / 2) / (count + z**2)
    # The root of correct * wrong / count, kept finite (zero) where count is 0.
    variance = correct * (count - correct) / np.maximum(count, 1)
    half_width = z * np.sqrt(variance + z**2 / 4) / (count + z**2)
    return centre - half_width, centre + half_width


def balanced_interval(correct, count, confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of the mean of the class accuracies; None if no class has examples.

    Wilson's interval at the number of images that would give the accuracy of a single class the variance of this mean:
    m (1 - m) over the mean's variance, each with k + 1/2 correct of n + 1, so that neither is 0 (an effective sample
    size as for complex surveys: Korn and Graubard, 1998). For one class it is Wilson's interval.

    Args:
        correct, count, confidence: as for `wilson_interval`; classes without examples are left out.

    Raises:
        ValueError: as for `wilson_interval`.
    """
    checked_confidence(confidence)
    correct, count = present_counts(correct, count)
    if not count.size:
        return None
    likely = (correct + 0.5) / (count + 1)
    variance = (likely * (1 - likely) / count).sum() / count.size**2
    images = likely.mean() * (1 - likely.mean()) / variance
    low, high = _wilson((correct / count).mean() * images, images, confidence)
    return (0.0 if not correct.any() else float(low)), (1.0 if (correct == count).all() else float(high))


def student_interval(values, confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean of independent values [N] (1908); None for fewer than two, which know no spread.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    from scipy.special import stdtrit  # not at the top: `import jaxrobust` does without SciPy

    checked_confidence(confidence)
    values = np.asarray(values, float)
    if values.size < 2:
        return None
    half_width = stdtrit(values.size - 1, (1 + confidence) / 2) * values.std(ddof=1) / np.sqrt(values.size)
    return float(values.mean() - half_width), float(values.mean() + half_width)


def checked_confidence(confidence: float) -> float:
    """The confidence, after checking that it is in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1; got {confidence}")
    return confidence
