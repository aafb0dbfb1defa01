"""Probes of the features and of the head: distances between classes and their spread, on natural images.

Features [n, D] are the outputs of the penultimate layer. The kernel of a head is [D, C], with one column per class.
"""

import numpy as np

from jaxrobust.classwise.counts import ratio
from jaxrobust.explanations.probe import Missing, of_family

_probe = of_family("features and head", "model")


def class_means(features, labels, num_classes: int) -> np.ndarray:
    """Means [C, D]; nan for a class without images."""
    sums = np.zeros((num_classes, features.shape[1]))
    np.add.at(sums, labels, features)
    return ratio(sums, np.bincount(labels, minlength=num_classes)[:, None])


def mean_distance(features, labels, num_classes: int) -> np.ndarray:
    """Distance of the mean of each class to the nearest mean of another class, [C]."""
    return _smallest(_distances(class_means(features, labels, num_classes)))


def scatter(features, labels, num_classes: int) -> np.ndarray:
    """Root mean square distance of the images of each class to its mean, [C]."""
    means = class_means(features, labels, num_classes)
    squares = np.square(features - means[labels]).sum(1)
    total, count = (np.bincount(labels, weights, num_classes) for weights in (squares, None))
    return np.sqrt(ratio(total, count))


def separation(features, labels, num_classes: int) -> np.ndarray:
    """Root of Fisher's ratio of each class to the class for which it is smallest, [C].

    It is |m_a - m_b| / sqrt(v_a + v_b), with the means m and the variances v along the line between the means (Fisher,
    1936). For two Gaussians with the same standard deviation s it is their distance over s sqrt(2). Infinite if both
    classes have variance 0 along that line.
    """
    means = class_means(features, labels, num_classes)
    variance = np.full((num_classes, num_classes), np.nan)  # [a, b]: variance of class a along the line from a to b
    for c in range(num_classes):
        lines = means - means[c]
        lengths = np.linalg.norm(lines, axis=1, keepdims=True)
        lines = np.divide(lines, lengths, out=np.zeros_like(lines), where=lengths > 0)
        own = features[labels == c] - means[c]
        if len(own):
            variance[c] = np.square(own @ lines.T).mean(0)
    distance, spread = _distances(means), np.sqrt(variance + variance.T)
    ratio = np.divide(distance, spread, out=np.where(distance > 0, np.inf, 0.0), where=spread > 0)
    return _smallest(np.where(np.isnan(distance), np.nan, ratio))


def largest_cosine(kernel) -> np.ndarray:
    """Largest cosine between the weights of each class and those of another class, [C]."""
    weights = np.asarray(kernel, np.float64).T
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    weights = weights / np.where(norms > 0, norms, 1.0)
    return -_smallest(-(weights @ weights.T))


def _distances(means) -> np.ndarray:
    squares = np.square(means).sum(1)
    return np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * means @ means.T, 0.0))


def _smallest(matrix) -> np.ndarray:
    """Smallest entry of each row, without the diagonal and without nan; nan if no entry is left."""
    counts = ~np.eye(len(matrix), dtype=bool) & ~np.isnan(matrix)
    return np.where(counts.any(1), np.where(counts, matrix, np.inf).min(1), np.nan)


def _of_features(function):
    return lambda inputs: function(*inputs.train_features, len(inputs.class_names))


def _of_linear_head(function):
    def measure(inputs):
        if inputs.config.model.head != "linear":
            raise Missing("a cosine head has neither norms nor biases")
        return function(inputs.head)

    return measure


PROBES = (
    _probe("feature_mean_distance", 1, _of_features(mean_distance),
           "Distance of the class's mean of features to the nearest mean of another class."),
    _probe("feature_scatter", -1, _of_features(scatter),
           "Root mean square distance of the class's features to their mean."),
    _probe("separation", 1, _of_features(separation),
           "Root of Fisher's ratio of the class and the class it is least apart from, in features."),
    _probe("head_norm", 1, _of_linear_head(lambda head: np.linalg.norm(np.float64(head["kernel"]), axis=0)),
           "Norm of the class's weights in the head."),
    _probe("head_bias", 1, _of_linear_head(lambda head: np.float64(head["bias"])),
           "Bias of the class in the head."),
    _probe("head_cosine", -1, lambda inputs: largest_cosine(inputs.head["kernel"]),
           "Largest cosine of the class's weights in the head to those of another class."),
)  # fmt: skip
