"""How unequal the classes are: worst class, gap and spread, from correct and total counts per class.

Classes without examples are left out of all figures. Spreads are population standard deviations, because the classes
are the whole population, not a sample.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Summary:
    """The figures of one evaluation: plain numbers and None, so that `dataclasses.asdict` gives JSON data.

    A figure is None if it is not defined: no examples at all, or a ratio with denominator zero.

    Attributes:
        accuracy: correct examples over all examples, so the weight of a class is its number of examples.
        balanced_accuracy: mean of the class accuracies, so all classes have the same weight.
        class_accuracy: accuracy of each class [C]; None for a class without examples.
        worst_class: index of the class with the lowest accuracy; the first one if several are tied.
        worst_class_accuracy: accuracy of the worst class.
        best_class: index of the class with the highest accuracy; the first one if several are tied.
        best_class_accuracy: accuracy of the best class.
        gap: best minus worst class accuracy.
        std: standard deviation of the class accuracies.
        cv: std over the mean class accuracy. ABSLD and some later papers call this figure NSD.
        nsd: std over the mean class error rate, the normalised standard deviation of Xu et al. (ICML 2021), who
            compute both on error rates (the standard deviations of errors and of accuracies are equal).
        bottom_k: number of classes in `bottom_k_mean`: a tenth of the classes with examples, rounded up.
        bottom_k_mean: mean accuracy of the `bottom_k` worst classes. Steadier than the worst class when C is large.
    """

    accuracy: float | None
    balanced_accuracy: float | None
    class_accuracy: tuple[float | None, ...]
    worst_class: int | None
    worst_class_accuracy: float | None
    best_class: int | None
    best_class_accuracy: float | None
    gap: float | None
    std: float | None
    cv: float | None
    nsd: float | None
    bottom_k: int
    bottom_k_mean: float | None


def summary(correct, count) -> Summary:
    """The figures of one evaluation.

    Args:
        correct: number of correct examples of each class, integers [C].
        count: number of examples of each class, integers [C]; may hold zeros.

    Raises:
        ValueError: the shapes differ or not 0 <= correct <= count.
    """
    accuracy_C = class_accuracy(correct, count)
    present = np.flatnonzero(~np.isnan(accuracy_C))
    if not present.size:
        nothing = {field.name: None for field in dataclasses.fields(Summary)}
        return Summary(**nothing | {"class_accuracy": _nullable(accuracy_C), "bottom_k": 0})

    accuracies = accuracy_C[present]
    worst, best = present[accuracies.argmin()], present[accuracies.argmax()]
    mean, std = accuracies.mean(), accuracies.std()
    bottom_k = math.ceil(present.size / 10)
    return Summary(
        accuracy=float(np.sum(correct) / np.sum(count)),
        balanced_accuracy=float(mean),
        class_accuracy=_nullable(accuracy_C),
        worst_class=int(worst),
        worst_class_accuracy=float(accuracy_C[worst]),
        best_class=int(best),
        best_class_accuracy=float(accuracy_C[best]),
        gap=float(accuracy_C[best] - accuracy_C[worst]),
        std=float(std),
        cv=_ratio(std, mean),
        nsd=_ratio(std, 1 - mean),
        bottom_k=bottom_k,
        bottom_k_mean=float(np.sort(accuracies)[:bottom_k].mean()),
    )


def class_accuracy(correct, count) -> np.ndarray:
    """Accuracy of each class, float64 [C]; nan for a class without examples.

    Raises:
        ValueError: the shapes differ or not 0 <= correct <= count.
    """
    correct, count = checked_counts(correct, count)
    return np.divide(correct, count, out=np.full(count.shape, np.nan), where=count > 0)


def boundary_error(clean_correct, robust_correct, count) -> tuple[float | None, ...]:
    """Share of each class that is lost only to the attack: clean minus robust accuracy, [C]; None without examples.

    Robust error = clean error + boundary error, the decomposition of TRADES (Zhang et al., ICML 2019), per class as in
    Xu et al. (ICML 2021). Never negative if only examples that are correct without attack can survive it.
    """
    return _nullable(class_accuracy(clean_correct, count) - class_accuracy(robust_correct, count))


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


def _ratio(numerator, denominator) -> float | None:
    return float(numerator / denominator) if denominator > 0 else None


def _nullable(values) -> tuple[float | None, ...]:
    """Floats with None in place of nan, which JSON cannot represent."""
    return tuple(None if math.isnan(value) else float(value) for value in values)
