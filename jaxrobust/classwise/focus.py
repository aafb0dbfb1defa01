"""The focused attacker, who attacks one class alone: what that gains over attacking all of them alike."""

import dataclasses

import numpy as np

from jaxrobust.classwise.discrepancy import checked_counts
from jaxrobust.classwise.intervals import wilson_interval


@dataclasses.dataclass(frozen=True)
class Focus:
    """What attacking one class alone gains. Fractions.

    Attributes:
        target: index of the class.
        success: share of its examples that the attacker breaks.
        average: share of all examples.
        gain: success - average.
        low, high: interval of the gain.
    """

    target: int
    success: float
    average: float
    gain: float
    low: float
    high: float


def focused_attack(correct, count, target: int, *, chosen_here: bool, confidence: float = 0.95) -> Focus | None:
    """The gain of attacking class `target` alone; None if it, or all other classes together, have no examples.

    With w the share of the class among the examples, the gain is (1 - w) times the difference of two success rates of
    independent samples, of the class and of all others, whose interval is that of Newcombe (1998, method 10: from two
    Wilson intervals). The others count as one sample, which is on the safe side for a sample of each class.

    Args:
        correct, count: integers [C], examples that withstand the attack and all examples of each class.
        chosen_here: the class was chosen by these very counts. Then the interval is one of all classes together
            (Bonferroni over those with examples), so that it holds whichever is chosen.
        confidence: strictly between 0 and 1.

    Raises:
        ValueError: the counts or the confidence do not fit.
    """
    correct, count = checked_counts(correct, count)
    broken = count - correct
    total, others = int(count.sum()), int(count.sum() - count[target])
    if not count[target] or not others:
        return None
    if chosen_here:
        confidence = 1 - (1 - confidence) / np.count_nonzero(count)
    parts = np.array([broken[target], broken.sum() - broken[target]]), np.array([count[target], others])
    (low, low_rest), (high, high_rest) = wilson_interval(*parts, confidence)
    rate, rest = parts[0] / parts[1]
    weight = others / total
    difference = rate - rest
    return Focus(
        target=int(target),
        success=float(rate),
        average=float(broken.sum() / total),
        gain=float(weight * difference),
        low=float(weight * (difference - np.hypot(rate - low, high_rest - rest))),
        high=float(weight * (difference + np.hypot(high - rate, rest - low_rest))),
    )
