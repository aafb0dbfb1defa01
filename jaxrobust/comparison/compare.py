"""Two models, or two attacks, compared class by class on the same images."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxrobust import classwise, files
from jaxrobust.classwise.table import Cells, Table, checked_labels, checked_verdicts, level, named
from jaxrobust.formatting import NOTHING, interval, p_value, percent, points

LEVEL = 0.05  # of the tests, after Holm's correction over the classes


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(Table):
    """Accuracies under A and B, and their differences, B minus A, as a table. nan where a class has no images.

    Intervals and tests cover the draw of the images. They do not cover the training seed: two runs of one config differ
    too.

    Attributes:
        pairs: the counts that all figures follow from.
        class_names: C names.
        confidence: of every interval.
    """

    pairs: classwise.PairedCounts
    class_names: tuple[str, ...]
    confidence: float = classwise.CONFIDENCE

    @functools.cached_property
    def a(self) -> classwise.Score:
        """The score under A."""
        return classwise.Score(self.pairs.correct_a, self.pairs.count, self.class_names, self.confidence)

    @functools.cached_property
    def b(self) -> classwise.Score:
        """The score under B."""
        return classwise.Score(self.pairs.correct_b, self.pairs.count, self.class_names, self.confidence)

    @property
    def difference(self) -> np.ndarray:
        """Accuracy under B minus accuracy under A of each class, [C]."""
        return classwise.paired_difference(self.pairs)

    @functools.cached_property
    def interval(self) -> np.ndarray:
        """Tango's interval of each difference, [C, 2]; (-1, 1) without images."""
        pairs = self.pairs
        return np.stack(classwise.paired_interval(pairs.only_a, pairs.only_b, pairs.count, self.confidence), 1)

    @functools.cached_property
    def p_value(self) -> np.ndarray:
        """p-value of McNemar's exact test of each class, [C]."""
        p_value = classwise.mcnemar_test(self.pairs.only_a, self.pairs.only_b)
        return np.where(self.pairs.count > 0, p_value, np.nan)

    @property
    def p_holm(self) -> np.ndarray:
        """The p-values after Holm's correction over the classes, [C]."""
        return classwise.holm_correction(self.p_value)

    @property
    def is_significant(self) -> np.ndarray:
        """Which classes differ significantly at 5 % after Holm's correction, bool [C]."""
        return self.p_holm <= LEVEL

    @functools.cached_property
    def average(self) -> "Comparison":
        """All images as a single class, so that its figures are [1]."""
        return Comparison(self.pairs.total(), ("average",), self.confidence)

    @functools.cached_property
    def worst(self) -> classwise.WorstDifference:
        """Difference of the worst classes of B and A; its interval accounts for their selection."""
        return classwise.worst_difference(self.pairs, self.confidence)

    def rows(self) -> list[dict]:
        columns = {
            "class": self.class_names,
            "images": self.pairs.count,
            "a": classwise.class_accuracy(self.pairs.correct_a, self.pairs.count),
            "b": classwise.class_accuracy(self.pairs.correct_b, self.pairs.count),
            "only_a": self.pairs.only_a,
            "only_b": self.pairs.only_b,
            "difference": self.difference,
            "low": self.interval[:, 0],
            "high": self.interval[:, 1],
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "is_significant": self.is_significant,
        }
        values = [files.nullable(column) for column in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    def cells(self) -> Cells:
        return cells(self.to_json(), self.confidence)

    def to_json(self) -> dict:
        """The figures as JSON data, as in compare.json for one attack."""
        (average,) = map(_record, self.average.rows())
        return {
            "average": {name: value for name, value in average.items() if name not in ("name", "examples", "p_holm")},
            "worst": {
                "a": self.a.worst_record(),
                "b": self.b.worst_record(),
                "difference": self.worst.difference,
                "interval": [self.worst.low, self.worst.high],
                "significant": self.worst.is_significant,
            },
            "classes": [_record(row) for row in self.rows()],
        }


def compare(
    labels, verdicts_a, verdicts_b, class_names: Sequence[str] | None = None, confidence: float = classwise.CONFIDENCE
) -> Comparison:
    """Compare B with A on the same images: each class, the average, and the worst class, with intervals and tests.

    Args:
        labels: true classes, integers in [0, C), [N].
        verdicts_a, verdicts_b: what `jaxrobust.attack` returns, or bool [N]: whether each image is classified correctly
            (under an attack: is robust) by A, and by B.
        class_names: C names; by default the indices up to the highest label. A class without images is unknown.
        confidence: of every interval, strictly between 0 and 1.

    Returns:
        A table of the figures of `Comparison`. It prints, and shows itself in a notebook and with rich. `to_pandas()`
        makes a DataFrame.

    Raises:
        FieldError: names the argument that does not fit.

    Example:
        >>> import numpy as np
        >>> labels = np.repeat([0, 1], 20)
        >>> is_robust = np.tile(np.arange(20), 2) < 5
        >>> found = compare(labels, is_robust, is_robust | (labels == 1), ["cat", "dog"])
        >>> found.difference.tolist(), found.is_significant.tolist(), found.worst.difference
        ([0.0, 0.75], [False, True], 0.0)
    """
    labels, names = checked_labels(labels, class_names)
    a = checked_verdicts("verdicts_a", verdicts_a, labels)
    b = checked_verdicts("verdicts_b", verdicts_b, labels)
    return Comparison(classwise.paired_counts(labels, a, b, len(names)), names, level(confidence))


def cells(of: dict, confidence: float) -> Cells:
    """The table of what `Comparison.to_json` returns: classes by their difference, those without images last."""
    tested = sorted((row for row in of["classes"] if row["examples"]), key=lambda row: row["difference"])
    absent = [row for row in of["classes"] if not row["examples"]]
    worst = of["worst"]
    a, b = (named(range(len(worst[side]["classes"])), worst[side]["classes"]) for side in "ab")
    average = {"name": "average", "examples": sum(row["examples"] for row in tested), "p_holm": None} | of["average"]
    worst = worst | {"name": f"worst class ({a if a == b else f'A: {a}; B: {b}'})", "examples": None, "p_value": None}
    worst |= {side: worst[side]["accuracy"] for side in "ab"} | {"p_holm": None}
    level = f"{100 * LEVEL:g} % (classes: after Holm's correction)"
    return Cells(
        ("class", "images", "A", "B", "B - A", "interval", "p", "p (Holm)", ""),
        [_cells(row) for row in (*tested, *absent)],
        [_cells(average), _cells(worst)],
        f"accuracies in percent; {100 * confidence:g} % paired intervals; * significant at {level}",
    )


def _cells(row: dict) -> tuple[str, ...]:
    known = row["difference"] is not None
    return (
        row["name"],
        "" if row["examples"] is None else str(row["examples"]),
        percent(row["a"]),
        percent(row["b"]),
        points(row["difference"]),
        interval(row["interval"]) if known else NOTHING,
        p_value(row["p_value"]) if known else NOTHING,
        p_value(row["p_holm"]),
        "*" if row["significant"] else "",
    )


def _record(row: dict) -> dict:
    """A row of `Comparison` with the names of compare.json."""
    record = {"name": row["class"], "examples": row["images"]}
    record |= {name: row[name] for name in ("a", "b", "only_a", "only_b", "difference")}
    record |= {"interval": [row["low"], row["high"]]}
    return record | {"p_value": row["p_value"], "p_holm": row["p_holm"], "significant": row["is_significant"]}
