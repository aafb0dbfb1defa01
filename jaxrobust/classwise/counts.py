"""Integer counts per class, from one label and one verdict per example."""

import numpy as np


def class_counts(labels, num_classes: int) -> np.ndarray:
    """Number of examples of each class, int64 [C].

    Args:
        labels: true classes, integers in [0, C), shape [N].
        num_classes: C; a class may have no example.

    Raises:
        ValueError: labels are not a vector of integers in [0, C).
    """
    return np.bincount(_class_indices("labels", labels, num_classes), minlength=num_classes)


def correct_counts(labels, correct_flags, num_classes: int) -> np.ndarray:
    """Number of examples of each class with a true flag, int64 [C].

    Args:
        labels: true classes, integers in [0, C), shape [N].
        correct_flags: bool [N], true where the example is classified correctly (or survives an attack).
        num_classes: C.

    Raises:
        ValueError: the shapes differ, the flags are not bool, or a label is not in [0, C).
    """
    labels = _class_indices("labels", labels, num_classes)
    correct_flags = np.asarray(correct_flags)
    # Integers would index labels instead of selecting from them, and give a wrong count without complaint.
    if correct_flags.dtype != bool or correct_flags.shape != labels.shape:
        raise ValueError(
            f"correct_flags must be bool {labels.shape}, one per label; got {correct_flags.dtype} {correct_flags.shape}"
        )
    return np.bincount(labels[correct_flags], minlength=num_classes)


def confusion(labels, predictions, num_classes: int) -> np.ndarray:
    """Number of examples of each pair (true class, predicted class), int64 [C, C].

    Rows are true classes, so each row sums to the count of its class and the diagonal holds the correct ones.

    Args:
        labels: true classes, integers in [0, C), shape [N].
        predictions: predicted classes, integers in [0, C), shape [N].
        num_classes: C.

    Raises:
        ValueError: the shapes differ, or an entry is not in [0, C).
    """
    labels = _class_indices("labels", labels, num_classes)
    predictions = _class_indices("predictions", predictions, num_classes)
    if labels.shape != predictions.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must have the same length")
    pairs = labels * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _class_indices(name: str, values, num_classes: int) -> np.ndarray:
    """`values` as int64 [N]; an error that names the first value out of range."""
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and not np.issubdtype(values.dtype, np.integer)):
        raise ValueError(f"{name} must be a vector of integers; got {values.dtype} {values.shape}")
    outside = (values < 0) | (values >= num_classes)
    if outside.any():
        raise ValueError(f"{name} must be in [0, {num_classes}); found {values[outside][0]}")
    return values.astype(np.int64)
