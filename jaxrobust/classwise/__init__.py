"""What a set of verdicts says class by class: counts, how unequal the classes are, and how sure that is.

Everything is derived from two integer arrays of shape [C], `correct` and `count`, or from a confusion matrix [C, C]:

    count = class_counts(labels, num_classes)
    correct = correct_counts(labels, survives, num_classes)
    summary(correct, count).worst_class
    wilson_interval(correct, count)
    worst_class(correct, count)

and from two sets of verdicts on the same examples, as counts of the pairs:

    pairs = paired_counts(labels, survives_a, survives_b, num_classes)
    holm_correction(mcnemar_test(pairs.only_a, pairs.only_b))

Targeted attacks, radii and the attacker who picks a class have files of their own: matrix.py, curve.py, focus.py. So
do questions to many runs: whether they order the classes alike (agreement.py), what explains the robustness of a class
(components.py), and whether an axis of a study changes anything (permutation.py).

Rates are fractions in [0, 1]. A class without examples has no accuracy: nan in arrays, None in results.
"""

from jaxrobust.classwise.counts import class_counts, confusion, correct_counts
from jaxrobust.classwise.discrepancy import Summary, boundary_error, class_accuracy, summary
from jaxrobust.classwise.intervals import balanced_interval, wilson_interval
from jaxrobust.classwise.paired import (
    AttackLoss,
    PairedCounts,
    WorstDifference,
    attack_loss,
    holm_correction,
    mcnemar_test,
    paired_counts,
    paired_difference,
    paired_interval,
    worst_difference,
)
from jaxrobust.classwise.worst import WorstClass, probability_worst, worst_class

__all__ = [
    "AttackLoss",
    "PairedCounts",
    "Summary",
    "WorstClass",
    "WorstDifference",
    "attack_loss",
    "balanced_interval",
    "boundary_error",
    "class_accuracy",
    "class_counts",
    "confusion",
    "correct_counts",
    "holm_correction",
    "mcnemar_test",
    "paired_counts",
    "paired_difference",
    "paired_interval",
    "probability_worst",
    "summary",
    "wilson_interval",
    "worst_class",
    "worst_difference",
]
