"""Class-wise figures of a model's predictions: counts, measures of inequality between classes, and their uncertainty.

All figures are computed from two integer arrays of shape [C], `correct` and `count`, or from a confusion matrix [C, C]:

    score = Score.of(labels, is_correct, class_names)
    score.accuracy, score.worst_name, score.class_interval, score.worst.low

and comparisons of two models on the same examples from counts of the pairs:

    pairs = paired_counts(labels, is_correct_a, is_correct_b, num_classes)
    holm_correction(mcnemar_test(pairs.only_a, pairs.only_b))

`classwise_table` is the score of labels and predictions that shows itself.

Other files: differences between classes beyond chance (spread.py), targeted attacks (matrix.py), several radii
(curve.py), an attacker who attacks a single class (focus.py).
For many runs: whether they rank the classes in the same order (agreement.py), what explains the robustness of a class
(components.py), and whether an axis of a study has an effect (permutation.py).

Rates are fractions in [0, 1]. A class without examples has no accuracy: nan in arrays, None in results.
"""

from jaxrobust.classwise.counts import class_counts, confusion, correct_counts, unequal
from jaxrobust.classwise.intervals import balanced_interval, wilson_interval
from jaxrobust.classwise.paired import (
    PairedCounts,
    WorstDifference,
    holm_correction,
    mcnemar_test,
    paired_counts,
    paired_difference,
    paired_interval,
    worst_difference,
)
from jaxrobust.classwise.score import CONFIDENCE, METRICS, Metric, Score, boundary_error, class_accuracy
from jaxrobust.classwise.spread import Corrected, Equality, corrected, equality_test
from jaxrobust.classwise.table import ClassTable, classwise_table
from jaxrobust.classwise.worst import WorstClass, probability_worst, worst_class
