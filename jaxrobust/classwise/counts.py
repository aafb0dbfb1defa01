"""Integer counts per class, from one label per example and whether it is classified correctly."""

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


def correct_counts(labels, is_correct, num_classes: int) -> np.ndarray:
    """Number of correct examples of each class, int64 [C].

    Args:
        labels: true classes, integers in [0, C), shape [N].
        is_correct: bool [N], true where the example is classified correctly (under an attack: is robust).
        num_classes: C.

    Raises:
        ValueError: the shapes differ, is_correct is not bool, or a label is not in [0, C).
    """
    labels = _class_indices("labels", labels, num_classes)
    is_correct = np.asarray(is_correct)
    # Integers would index labels instead of selecting from them, and give a wrong count without complaint.
    if is_correct.dtype != bool or is_correct.shape != labels.shape:
        raise ValueError(
            f"is_correct must be bool {labels.shape}, one per label; got {is_correct.dtype} {is_correct.shape}"
        )
    return np.bincount(labels[is_correct], minlength=num_classes)


def confusion(labels, predictions, num_classes: int) -> np.ndarray:
    """Number of examples of each pair (true class, predicted class), int64 [C, C].

    Rows are true classes, and the diagonal holds the correct ones. A row sums to the count of its class less the
    examples without a prediction.

    Args:
        labels: true classes, integers in [0, C), shape [N].
        predictions: predicted classes, integers in [0, C), or -1 for none, shape [N].
        num_classes: C.

    Raises:
        ValueError: the shapes differ, or an entry is not in [0, C), or [-1, C).
    """
    labels = _class_indices("labels", labels, num_classes)
    predictions = _class_indices("predictions", predictions, num_classes, lowest=-1)
    if labels.shape != predictions.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must have the same length")
    pairs = (labels * num_classes + predictions)[predictions >= 0]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def unequal(count) -> bool:
    """Whether classes with examples differ in their number, so that plain and balanced accuracy are two figures."""
    return len(set(np.asarray(count).tolist()) - {0}) > 1


def ratio(part, whole) -> np.ndarray:
    """part / whole, broadcast; nan where whole is not above 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def known_mean(values, axis: int) -> np.ndarray:
    """Mean over an axis of the values that are finite; nan if there are none."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0.0).sum(axis), known.sum(axis))


def checked_counts(correct, count) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays [C], after checking 0 <= correct <= count."""
    correct, count = np.asarray(correct), np.asarray(count)
    if correct.ndim != 1 or correct.shape != count.shape:
        raise ValueError(f"correct {correct.shape} and count {count.shape} must be vectors with one entry per class")
    wrong = (correct < 0) | (correct > count)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(f"class {first}: {correct[first]} correct of {count[first]}; need 0 <= correct <= count")
    return correct, count


def present_counts(correct, count) -> tuple[np.ndarray, np.ndarray]:
    """`checked_counts` without the classes that have no examples."""
    correct, count = checked_counts(correct, count)
    return correct[count > 0], count[count > 0]


def _class_indices(name: str, values, num_classes: int, lowest: int = 0) -> np.ndarray:
    """`values` as int64 [N]; an error that names the first value out of range."""
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and not np.issubdtype(values.dtype, np.integer)):
        raise ValueError(f"{name} must be a vector of integers; got {values.dtype} {values.shape}")
    outside = (values < lowest) | (values >= num_classes)
    if outside.any():
        raise ValueError(f"{name} must be in [{lowest}, {num_classes}); found {values[outside][0]}")
    return values.astype(np.int64)
