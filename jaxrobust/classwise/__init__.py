"""What a set of verdicts says class by class: counts, how unequal the classes are, and how sure that is.

Everything is derived from two integer arrays of shape [C], `correct` and `count`, or from a confusion matrix [C, C]:

    count = class_counts(labels, num_classes)
    correct = correct_counts(labels, survives, num_classes)
    summary(correct, count).worst_class
    wilson_interval(correct, count)

Rates are fractions in [0, 1]. A class without examples has no accuracy: nan in arrays, None in results.
"""

from jaxrobust.classwise.counts import class_counts, confusion, correct_counts
from jaxrobust.classwise.discrepancy import Summary, boundary_error, class_accuracy, summary
from jaxrobust.classwise.intervals import wilson_interval

__all__ = [
    "Summary",
    "boundary_error",
    "class_accuracy",
    "class_counts",
    "confusion",
    "correct_counts",
    "summary",
    "wilson_interval",
]
