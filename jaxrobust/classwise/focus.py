"""The focused attacker, who attacks only one class: the gain over attacking all classes equally."""

import dataclasses

import numpy as np

from jaxrobust.classwise.counts import checked_counts
from jaxrobust.classwise.intervals import wilson_interval


@dataclasses.dataclass(frozen=True)
class Focus:
    """The gain of attacking only one class. Rates are fractions."""

    target: int  # index of the class
    success: float  # share of the examples of this class that the attacker turns into errors
    average: float  # share of all examples that the attacker turns into errors
    gain: float  # success - average
    # low, high: interval of the gain.
    low: float
    high: float


def focused_attack(correct, count, target: int, *, chosen_here: bool, confidence: float = 0.95) -> Focus | None:
    """The gain of attacking only class `target`; None if this class, or all other classes together, have no examples.

    The gain is the share of the other classes among the examples, times the difference of the success rates on the
    class and on all others. The interval of the difference is that of Newcombe (1998, method 10: from two Wilson
    intervals); treating the others as one sample is conservative.

    Args:
        correct, count: integers [C], examples that are robust to the attack, and all examples of each class.
        chosen_here: whether the class was chosen by these counts. Then the interval is simultaneous for all classes
            (Bonferroni over those with examples), so that it is valid whichever class is chosen.
        confidence: strictly between 0 and 1.

    Raises:
        ValueError: the counts or the confidence are not valid.
    """
    correct, count = checked_counts(correct, count)
    wrong = count - correct
    total, others = int(count.sum()), int(count.sum() - count[target])
    if not count[target] or not others:
        return None
    if chosen_here:
        confidence = 1 - (1 - confidence) / np.count_nonzero(count)
    parts = np.array([wrong[target], wrong.sum() - wrong[target]]), np.array([count[target], others])
    (low, low_rest), (high, high_rest) = wilson_interval(*parts, confidence)
    rate, rest = parts[0] / parts[1]
    weight = others / total
    difference = rate - rest
    return Focus(
        target=int(target),
        success=float(rate),
        average=float(wrong.sum() / total),
        gain=float(weight * difference),
        low=float(weight * (difference - np.hypot(rate - low, high_rest - rest))),
        high=float(weight * (difference + np.hypot(high - rate, rest - low_rest))),
    )
