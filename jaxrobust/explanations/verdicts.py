"""Probes of results: which classes are predicted in error under attack, and how training accuracy compares to test.

Rows of a confusion matrix [C, C] are true classes, columns are predictions under attack; `count` [C] includes images
without a prediction.
"""

import numpy as np

from jaxrobust.classwise.counts import ratio
from jaxrobust.explanations.probe import Missing, of_family

_probe = of_family("results", "results")


def flow_in(confusion, count) -> np.ndarray:
    """Share of the images of other classes that are predicted as each class, [C]."""
    confusion = np.asarray(confusion, np.float64)
    return ratio(confusion.sum(0) - np.diag(confusion), np.sum(count) - count)


def flow_out(confusion, count) -> np.ndarray:
    """Share of the images of each class that are not predicted as it, [C]."""
    return ratio(count - np.diag(confusion), count)


def largest_rival(confusion, count) -> np.ndarray:
    """Share of the errors of each class that are its most frequent wrong prediction, [C]; nan without errors."""
    errors = np.asarray(confusion, np.float64) * (1 - np.eye(len(confusion)))
    return ratio(errors.max(1), count - np.diag(confusion))


def _largest_rival(inputs):
    if len(inputs.class_names) < 3:
        raise Missing("with two classes, all errors are predictions of the other class")
    return largest_rival(inputs.confusion, inputs.count)


def _breaking_radius(inputs):
    if inputs.audit is None:
        raise Missing("no audit of this checkpoint; run jaxrobust audit")
    radii = inputs.audit["curve"]["half"]["class_radius"]
    # Beyond the largest radius tried: any larger value will do, since only ranks are used.
    beyond = 2 * max(inputs.audit["curve"]["radii"])
    count = np.array(inputs.audit["count"])
    return np.where(count > 0, [beyond if radius is None else radius for radius in radii], np.nan)


PROBES = (
    _probe("train_robustness", 1, lambda inputs: inputs.training_accuracy,
           "Accuracy of the class on the attacked training images, in the last epoch of training."),
    _probe("flow_in", 0, lambda inputs: flow_in(inputs.confusion, inputs.count),
           "Share of the images of all other classes that the attack turns into this class."),
    _probe("largest_rival", -1, _largest_rival,
           "Share of the class's errors under attack that are its most frequent wrong prediction."),
    _probe("flow_out", -1, lambda inputs: flow_out(inputs.confusion, inputs.count),
           "Share of the class's images that the attack turns into another class: one minus its robustness.",
           built_in=True),
    _probe("train_test_gap", -1, lambda inputs: inputs.training_accuracy - inputs.robustness,
           "Accuracy on the attacked training images in the last epoch, minus the accuracy under attack on "
           "scored images.", built_in=True),
    _probe("breaking_radius", 1, _breaking_radius,
           "Median over the class of the smallest radius that breaks an image, from the audit's security curve.",
           built_in=True),
)  # fmt: skip
