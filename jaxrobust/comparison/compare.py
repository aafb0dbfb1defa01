"""Two models, or two attacks, compared class by class on the same images."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from jaxrobust import classwise, files
from jaxrobust.classwise import seeds
from jaxrobust.classwise.paired import holm_over_groups
from jaxrobust.classwise.table import Cells, Table, checked_labels, checked_verdicts, level, named
from jaxrobust.errors import FieldError, listed
from jaxrobust.formatting import NOTHING, interval, p_value, percent, points

LEVEL = 0.05  # of all tests of a table together, after Holm's correction


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(Table):
    """Accuracies under A and B, and their differences, B minus A, as a table. nan where a class has no images.

    Intervals and tests cover the draw of the images. They do not cover the training seed: two runs of one config differ
    too.

    Attributes:
        pairs: the counts that all figures follow from.
        class_names: C names.
        confidence: of every interval.
        worst_a, worst_b: classes that may be the worst under A, and under B, named without these images.
    """

    pairs: classwise.PairedCounts
    class_names: tuple[str, ...]
    confidence: float = classwise.CONFIDENCE
    worst_a: Sequence[int] | None = None
    worst_b: Sequence[int] | None = None

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

    @functools.cached_property
    def p_holm(self) -> np.ndarray:
        """The p-values after Holm's correction over all that is tested here, [C]."""
        return self._corrected[0]

    @functools.cached_property
    def _corrected(self) -> list[np.ndarray]:
        """p-values [C] of the classes, and [2] of average and worst class, corrected together."""
        return holm_over_groups([self.p_value, [self.average.p_value[0], self.worst_p_value]])

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
        return self._worst(self.confidence)

    def _worst(self, confidence: float) -> classwise.WorstDifference:
        return classwise.worst_difference(self.pairs, confidence, worst_a=self.worst_a, worst_b=self.worst_b)

    @functools.cached_property
    def worst_p_value(self) -> float:
        """The level at which the interval of `worst` would end at 0."""
        if self.worst.low is None:
            return math.nan

        def ends(confidence):
            found = self._worst(confidence)
            return found.low, found.high

        return seeds.level_of(ends)

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
        names = {"a": self.worst_a, "b": self.worst_b}
        worst = {
            "a": self.a.worst_record(),
            "b": self.b.worst_record(),
            "difference": self.worst.difference,
            "interval": [self.worst.low, self.worst.high],
            "named": {side: of if of is None else [self.class_names[c] for c in of] for side, of in names.items()},
            "p_value": files.nullable([self.worst_p_value])[0],
        }
        average = {name: value for name, value in average.items() if name not in ("name", "examples")}
        for record, p in zip((average, worst), self._corrected[1], strict=True):
            record |= {"p_holm": files.nullable([p])[0], "significant": bool(p <= LEVEL)}
        return {"average": average, "worst": worst, "classes": [_record(row) for row in self.rows()]}


def compare(
    labels,
    verdicts_a,
    verdicts_b,
    class_names: Sequence[str] | None = None,
    confidence: float = classwise.CONFIDENCE,
    *,
    worst_a: str | int | Sequence | None = None,
    worst_b: str | int | Sequence | None = None,
) -> Comparison:
    """Compare B with A on the same images: each class, the average, and the worst class, with intervals and tests.

    Args:
        labels: true classes, integers in [0, C), [N].
        verdicts_a, verdicts_b: what `jaxrobust.attack` returns, or bool [N]: whether each image is classified correctly
            (under an attack: is robust) by A, and by B.
        class_names: C names; by default the indices up to the highest label. A class without images is unknown.
        confidence: of every interval, strictly between 0 and 1.
        worst_a, worst_b: the class that is the worst under A, and under B, by its name or index, chosen on other images
            such as a validation split; or a few that may be. The interval of the worst class is then narrower: without,
            it allows for the choice of the class on these images.

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
    named = (_indices(name, of, names) for name, of in (("worst_a", worst_a), ("worst_b", worst_b)))
    return Comparison(classwise.paired_counts(labels, a, b, len(names)), names, level(confidence), *named)


def _indices(argument: str, classes, names: tuple[str, ...]) -> list[int] | None:
    """Indices of classes that are given by name or index."""
    if classes is None:
        return None
    found = []
    is_one = (
        not isinstance(classes, Sequence | np.ndarray) or isinstance(classes, str) or not getattr(classes, "ndim", 1)
    )
    for given in [classes] if is_one else classes:
        index = names.index(given) if isinstance(given, str) and given in names else given
        if isinstance(index, bool) or not (isinstance(index, int | np.integer) and 0 <= index < len(names)):
            raise FieldError(argument, given, "is not a class", f"{listed(names)}, or its index")
        found.append(int(index))
    if not found:
        raise FieldError(argument, classes, "names no class", "leave it out, or name one")
    return found


def correct(tables: Sequence[dict]) -> None:
    """Correct the p-values of what several `Comparison.to_json` returned, shown together, in place."""
    groups = [[row for of in tables for row in of["classes"]], [of[f] for of in tables for f in ("average", "worst")]]
    p_values = [[math.nan if row["p_value"] is None else row["p_value"] for row in group] for group in groups]
    for group, corrected in zip(groups, holm_over_groups(p_values), strict=True):
        for row, p in zip(group, corrected, strict=True):
            row |= {"p_holm": files.nullable([p])[0], "significant": bool(p <= LEVEL)}


def cells(of: dict, confidence: float) -> Cells:
    """The table of what `Comparison.to_json` returns: classes by their difference, those without images last."""
    tested = sorted((row for row in of["classes"] if row["examples"]), key=lambda row: row["difference"])
    absent = [row for row in of["classes"] if not row["examples"]]
    worst = of["worst"]
    a, b = (named(range(len(worst[side]["classes"])), worst[side]["classes"]) for side in "ab")
    average = {"name": "average", "examples": sum(row["examples"] for row in tested)} | of["average"]
    worst = worst | {"name": f"worst class ({a if a == b else f'A: {a}; B: {b}'})", "examples": None}
    worst |= {side: worst[side]["accuracy"] for side in "ab"}
    level = f"{100 * LEVEL:g} % after Holm's correction over all of them"
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
