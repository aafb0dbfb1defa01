"""Class-wise figures of a set of verdicts: counts, measures of inequality between classes, and their uncertainty.

All figures are computed from two integer arrays of shape [C], `correct` and `count`, or from a confusion matrix [C, C]:

    count = class_counts(labels, num_classes)
    correct = correct_counts(labels, survives, num_classes)
    summary(correct, count).worst_class
    wilson_interval(correct, count)
    worst_class(correct, count)

and comparisons of two sets of verdicts on the same examples from counts of the pairs:

    pairs = paired_counts(labels, survives_a, survives_b, num_classes)
    holm_correction(mcnemar_test(pairs.only_a, pairs.only_b))

Other files: targeted attacks (matrix.py), several radii (curve.py), an attacker who attacks a single class (focus.py).
For many runs: whether they rank the classes in the same order (agreement.py), what explains the robustness of a class
(components.py), and whether an axis of a study has an effect (permutation.py).

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
