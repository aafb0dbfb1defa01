"""The score of a model under one attack: every figure that follows from correct and total counts per class.

    score = Score(correct, count, class_names)
    score.accuracy, score.gap, score.metrics         # the figures that are one number, see `METRICS`
    score.class_interval[score.worst_class]
    score.worst.low                                  # accounts for the selection of the worst class

Classes without examples are left out of all figures. Spreads are population standard deviations, because the classes
are the whole population, not a sample.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from jaxrobust import files, formatting
from jaxrobust.classwise.counts import checked_counts, class_counts, correct_counts, ratio
from jaxrobust.classwise.intervals import balanced_interval, wilson_interval
from jaxrobust.classwise.spread import Corrected, Equality, corrected, equality_test
from jaxrobust.classwise.worst import WorstClass, probability_worst, worst_class

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a score that is one number."""

    name: str  # as in results.jsonl and in TensorBoard's tags
    # (correct, count), integers [C] of the classes with examples, at least one, -> the figure; nan if undefined.
    of: Callable[[np.ndarray, np.ndarray], float]
    meaning: str  # its definition
    text: Callable[[float | None], str] = formatting.percent  # how it is written
    is_scalar: bool = True  # whether it becomes a scalar in TensorBoard


def _ratio(numerator, denominator) -> float:
    return numerator / denominator if denominator > 0 else math.nan


def _bottom_k(classes: int) -> int:
    return math.ceil(classes / 10)


# A new figure is one entry here: it is then in results.jsonl, TensorBoard, the report, and an attribute of every score.
METRICS = (
    Metric("accuracy", lambda correct, count: correct.sum() / count.sum(),
           "Correct examples over all examples, so the weight of a class is its number of examples."),
    Metric("balanced_accuracy", lambda correct, count: (correct / count).mean(),
           "Mean of the class accuracies, so all classes have the same weight."),
    Metric("worst_class_accuracy", lambda correct, count: (correct / count).min(),
           "Accuracy of the class with the lowest."),
    Metric("best_class_accuracy", lambda correct, count: (correct / count).max(),
           "Accuracy of the class with the highest.", is_scalar=False),
    Metric("gap", lambda correct, count: (correct / count).max() - (correct / count).min(),
           "Best minus worst class accuracy, in percentage points."),
    Metric("std", lambda correct, count: (correct / count).std(),
           "Population standard deviation of the class accuracies, in percentage points; the same for error rates."),
    Metric("cv", lambda correct, count: _ratio((correct / count).std(), (correct / count).mean()),
           "std over the mean class accuracy. ABSLD and some later papers call this nsd.", formatting.ratio),
    Metric("nsd", lambda correct, count: _ratio((correct / count).std(), 1 - (correct / count).mean()),
           "std over the mean class error rate: the normalised standard deviation of Xu et al. (ICML 2021).",
           formatting.ratio),
    Metric("bottom_k_mean", lambda correct, count: np.sort(correct / count)[: _bottom_k(count.size)].mean(),
           "Mean accuracy of the worst tenth of the classes, rounded up. Steadier than the worst class if C is large."),
)  # fmt: skip
_NAMES = frozenset(metric.name for metric in METRICS)


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """The figures of a model under one attack, each computed once, when it is first asked for.

    The figures in `METRICS` are attributes too. A figure is None if it is not defined: no examples at all, or a ratio
    with denominator zero. Intervals are (low, high), for the draw of the examples.

    Attributes:
        correct, count: correct examples and all examples of each class, integers [C]; count may hold zeros.
        class_names: C names; by default the indices.
        confidence: of every interval.

    Raises:
        ValueError: the shapes differ, not 0 <= correct <= count, or not C names.

    Example:
        >>> score = Score([3, 9, 0], [10, 10, 0], ["cat", "dog", "nobody"])
        >>> score.accuracy, score.worst_name, score.class_accuracy
        (0.6, 'cat', (0.3, 0.9, None))
    """

    correct: np.ndarray
    count: np.ndarray
    class_names: tuple[str, ...] | None = None
    confidence: float = CONFIDENCE

    def __post_init__(self):
        correct, count = checked_counts(self.correct, self.count)
        names = tuple(map(str, range(count.size))) if self.class_names is None else tuple(self.class_names)
        if len(names) != count.size:
            raise ValueError(f"class_names has {len(names)} names; need one for each of {count.size} classes")
        for name, value in (("correct", correct), ("count", count), ("class_names", names)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, labels, is_correct, class_names, confidence: float = CONFIDENCE):
        """The score of labels [N] in [0, C) and is_correct bool [N]."""
        classes = len(class_names)
        counts = correct_counts(labels, is_correct, classes), class_counts(labels, classes)
        return cls(*counts, class_names, confidence)

    def __getattr__(self, name: str) -> float | None:
        if name in _NAMES:
            return self.metrics[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @functools.cached_property
    def metrics(self) -> dict[str, float | None]:
        """The figures in `METRICS`, by name."""
        there = self.count > 0
        counts = self.correct[there], self.count[there]
        return {metric.name: files.nullable(metric.of(*counts)) if there.any() else None for metric in METRICS}

    @functools.cached_property
    def class_accuracy(self) -> tuple[float | None, ...]:
        """Accuracy of each class [C]; None for a class without examples."""
        return tuple(files.nullable(class_accuracy(self.correct, self.count)))

    @functools.cached_property
    def class_interval(self) -> tuple[tuple[float, float], ...]:
        """Wilson interval of each class accuracy [C]; (0, 1) for a class without examples."""
        low, high = wilson_interval(self.correct, self.count, self.confidence)
        return tuple(zip(low.tolist(), high.tolist(), strict=True))

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of `accuracy`."""
        (low,), (high,) = wilson_interval([self.correct.sum()], [self.count.sum()], self.confidence)
        return float(low), float(high)

    @functools.cached_property
    def balanced_interval(self) -> tuple[float, float] | None:
        """Interval of `balanced_accuracy`."""
        return balanced_interval(self.correct, self.count, self.confidence)

    @functools.cached_property
    def by_accuracy(self) -> tuple[int, ...]:
        """Indices of the classes with examples, lowest accuracy first; equal ones in order of index."""
        accuracy = class_accuracy(self.correct, self.count)
        return tuple(c for c in np.argsort(accuracy, kind="stable").tolist() if self.count[c])

    @property
    def worst_class(self) -> int | None:
        """Index of the class with the lowest accuracy; the first one if several are tied."""
        return self.by_accuracy[0] if self.by_accuracy else None

    @property
    def best_class(self) -> int | None:
        """Index of the class with the highest accuracy; the first one if several are tied."""
        best = self.best_class_accuracy
        return None if best is None else self.class_accuracy.index(best)

    @property
    def worst_name(self) -> str | None:
        return None if self.worst_class is None else self.class_names[self.worst_class]

    @property
    def best_name(self) -> str | None:
        return None if self.best_class is None else self.class_names[self.best_class]

    @property
    def worst_interval(self) -> tuple[float, float] | None:
        """Interval of the worst class as if it had been chosen beforehand; `worst` accounts for its selection."""
        return None if self.worst_class is None else self.class_interval[self.worst_class]

    @functools.cached_property
    def worst(self) -> WorstClass:
        """What is known about the class that is truly the worst."""
        return worst_class(self.correct, self.count, self.confidence)

    @functools.cached_property
    def corrected(self) -> dict[str, Corrected]:
        """Spreads with the sampling variance taken off, by the names in `METRICS`, see `spread.corrected`."""
        return corrected(self.correct, self.count, self.confidence)

    @functools.cached_property
    def equality(self) -> Equality:
        """The test that all classes have the same accuracy, see `spread.equality_test`."""
        return equality_test(self.correct, self.count)

    @functools.cached_property
    def probability_worst(self) -> tuple[float, ...]:
        """The probability of each class to be truly the worst [C], see `worst.probability_worst`."""
        return tuple(probability_worst(self.correct, self.count).tolist())

    @property
    def bottom_k(self) -> int:
        """Number of classes in `bottom_k_mean`: a tenth of the classes with examples, rounded up."""
        return _bottom_k(np.count_nonzero(self.count))

    def to_record(self) -> dict:
        """The counts and the figures as JSON data, as in a line of results.jsonl."""
        return {
            "classes": list(self.class_names),
            "count": self.count.tolist(),
            "correct": self.correct.tolist(),
            "class_accuracy": list(self.class_accuracy),
            "class_interval": [list(interval) for interval in self.class_interval],
            "worst_class": self.worst_name,
            "best_class": self.best_name,
            "bottom_k": self.bottom_k,
            **self.metrics,
        }

    def worst_record(self) -> dict:
        """What is known about the worst class, as JSON data.

        classes      names of the classes with the lowest measured accuracy; several if they are equal
        accuracy     that accuracy
        interval     interval of the accuracy of the class that is truly the worst
        candidates   classes that may truly be the worst, with name and probability, lowest accuracy first
        probability  for each class, the probability that it is the worst, [C]
        """
        probability = np.round(self.probability_worst, 4).tolist()
        return {
            "classes": [self.class_names[c] for c in self.worst.classes],
            "accuracy": self.worst.accuracy,
            "interval": [self.worst.low, self.worst.high],
            "candidates": [{"name": self.class_names[c], "probability": probability[c]} for c in self.worst.candidates],
            "probability": probability,
        }


def class_accuracy(correct, count) -> np.ndarray:
    """Accuracy of each class, float64 [C]; nan without examples. ValueError unless 0 <= correct <= count, alike [C]."""
    return ratio(*checked_counts(correct, count))


def boundary_error(clean_correct, robust_correct, count) -> tuple[float | None, ...]:
    """Share of each class that is lost only to the attack: clean minus robust accuracy, [C]; None without examples.

    Robust error = clean error + boundary error, the decomposition of TRADES (Zhang et al., ICML 2019), per class as in
    Xu et al. (ICML 2021). Never negative if only examples that are correct without attack can be robust to it.
    """
    return tuple(files.nullable(class_accuracy(clean_correct, count) - class_accuracy(robust_correct, count)))
