"""Tables of class-wise figures that show themselves: as text, on a terminal, in a notebook, as a pandas DataFrame."""

import dataclasses
import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.classwise.counts import unequal
from jaxrobust.classwise.score import CONFIDENCE, Score
from jaxrobust.errors import FieldError, as_array, as_names, number
from jaxrobust.formatting import NOTHING, clean, interval, p_value, percent

SHOWN = 40  # most classes of a table that is shown; of more, those at both ends
_ENDS = 10
MOST_CLASSES = 10**6  # without names


class Cells(NamedTuple):
    """A table as text: the first column is a name, the others are numbers."""

    header: tuple[str, ...]
    classes: list[tuple[str, ...]]
    overall: list[tuple[str, ...]]
    caption: str

    def shown(self) -> list[tuple[str, ...]]:
        """The rows of the classes; of many, only those at both ends."""
        if len(self.classes) <= SHOWN:
            return self.classes
        between = f"... {len(self.classes) - 2 * _ENDS} classes between"
        return [*self.classes[:_ENDS], (between, *[""] * (len(self.header) - 1)), *self.classes[-_ENDS:]]

    def cleaned(self) -> "Cells":
        """The same without characters that act on a terminal, see `formatting.clean`."""
        classes, overall = ([tuple(map(clean, row)) for row in rows] for rows in (self.classes, self.overall))
        return self._replace(classes=classes, overall=overall)

    def __rich__(self):
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(caption=Text(self.caption))
        for i, name in enumerate(self.header):
            table.add_column(name, justify="right" if i else "left")
        for rows in (self.shown(), self.overall):
            for row in rows:
                table.add_row(*map(Text, row))  # Text and not str: a class may be called [b]
            table.add_section()
        return table


class Table:
    """What tables have in common. A subclass gives `rows`, the figures of each class as a dict, in order of index, with
    None where one is not defined; and `cells`, the table as text.
    """

    def to_pandas(self):
        """The figures of each class as a pandas DataFrame, in order of index; nan where one is not defined."""
        import pandas  # nothing else needs it

        return pandas.DataFrame(self.rows()).set_index("class")

    def __str__(self) -> str:
        cells = self.cells().cleaned()
        lines = [cells.header, *cells.shown(), *cells.overall]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
        ]
        rule = "-" * max(map(len, texts))
        first, last = texts[: -len(cells.overall)], texts[-len(cells.overall) :]
        return "\n".join([first[0], rule, *first[1:], rule, *last, cells.caption])

    __repr__ = __str__

    def __rich__(self):
        return self.cells().cleaned().__rich__()

    def _repr_html_(self) -> str:
        cells = self.cells().cleaned()

        def line(row, tag="td"):
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

        body = "".join(f"<tbody>{''.join(map(line, rows))}</tbody>" for rows in (cells.shown(), cells.overall))
        caption = f"<caption>{html.escape(cells.caption)}</caption>"
        return f"<table>{caption}<thead>{line(cells.header, 'th')}</thead>{body}</table>"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClassTable(Table, Score):
    """The score of a model, class by class, as a table; every figure of `Score` is an attribute.

    Shown are the classes, lowest accuracy first, those without images last; the average; and the worst class. Its
    interval, and the candidates (classes that may truly be the worst), account for its selection, see `Score.worst`.
    Below, the gap between best and worst class without what the draw of the images adds to it, see `Score.corrected`,
    and whether the classes differ at all, see `Score.equality`; and the notes of the verdicts.
    """

    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict]:
        return [
            {
                "class": name,
                "images": int(self.count[c]),
                "correct": int(self.correct[c]),
                "accuracy": self.class_accuracy[c],
                "low": self.class_interval[c][0],
                "high": self.class_interval[c][1],
                "may_be_worst": c in self.worst.candidates,
            }
            for c, name in enumerate(self.class_names)
        ]

    def cells(self) -> Cells:
        unknown = [c for c in range(self.count.size) if not self.count[c]]
        classes = [
            (
                self.class_names[c],
                str(self.count[c]),
                str(self.correct[c]),
                percent(self.class_accuracy[c]),
                interval(self.class_interval[c]) if self.count[c] else NOTHING,
                "yes" if c in self.worst.candidates else "",
            )
            for c in (*self.by_accuracy, *unknown)
        ]
        total = str(self.count.sum()), str(self.correct.sum())
        overall = [("average", *total, percent(self.accuracy), interval(self.interval), "")]
        if unequal(self.count):
            balanced = percent(self.balanced_accuracy), interval(self.balanced_interval)
            overall.append(("balanced average", "", "", *balanced, ""))
        ends = None if self.worst.low is None else (self.worst.low, self.worst.high)
        name = f"worst class ({named(self.worst.classes, self.class_names)})"
        overall.append((name, "", "", percent(self.worst.accuracy), interval(ends), str(len(self.worst.candidates))))
        caption = f"accuracies in percent; {100 * self.confidence:g} % intervals"
        if len(self.by_accuracy) > 1:
            gap = self.corrected["gap"]
            overall.append(("gap without chance", "", "", percent(gap.value), interval(gap[1:]), ""))
            caption += f"; equally accurate classes: p = {p_value(self.equality.p_value)}"
        header = ("class", "images", "correct", "accuracy", "interval", "may be worst")
        return Cells(header, classes, overall, "\n".join((caption, *self.notes)))


def classwise_table(
    labels, verdicts, class_names: Sequence[str] | None = None, confidence: float = CONFIDENCE
) -> ClassTable:
    """The accuracy of each class with its interval, the average, and the worst class.

    Args:
        labels: true classes, integers in [0, C), [N].
        verdicts: what `jaxrobust.attack` returns, or bool [N]: whether each image is classified correctly (under an
            attack: is robust).
        class_names: C names; by default the indices up to the highest label. A class without images is unknown.
        confidence: of every interval, strictly between 0 and 1.

    Returns:
        A table with every figure of `classwise.Score` as an attribute. It prints, and shows itself in a notebook and
        with rich. `to_pandas()` makes a DataFrame.

    Raises:
        FieldError: names the argument that does not fit.

    Example:
        >>> labels, is_robust = [0] * 40 + [1] * 40, [True] * 4 + [False] * 36 + [True] * 40
        >>> table = classwise_table(labels, is_robust, ["cat", "dog"])
        >>> table.worst_name, table.worst_class_accuracy, table.gap
        ('cat', 0.1, 0.9)
        >>> table
        class               images  correct  accuracy       interval  may be worst
        --------------------------------------------------------------------------
        cat                     40        4      10.0    [4.0, 23.1]           yes
        dog                     40       40     100.0  [91.2, 100.0]
        --------------------------------------------------------------------------
        average                 80       44      55.0   [44.1, 65.4]
        worst class (cat)                        10.0    [2.8, 25.7]             1
        gap without chance                       89.9  [75.5, 100.0]
        accuracies in percent; 95 % intervals; equally accurate classes: p = 5.9e-16
    """
    labels, names = checked_labels(labels, class_names)
    table = ClassTable.of(labels, checked_verdicts("verdicts", verdicts, labels), names, level(confidence))
    return dataclasses.replace(table, notes=tuple(getattr(verdicts, "notes", ())))


def named(classes: Sequence[int], class_names: Sequence[str]) -> str:
    """The first of the classes by name, and how many more."""
    first = class_names[classes[0]] if classes else NOTHING
    return f"{first} and {len(classes) - 1} more" if len(classes) > 1 else first


def checked_labels(labels, class_names) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels [N] and the names of the classes, after checking that they fit."""
    labels = as_array("labels", labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise FieldError("labels", found, "is not one class per image", "pass integers of shape [N]")
    if class_names is None:
        if not labels.size:
            raise FieldError("labels", labels.tolist(), "has no images, so no classes are known", "pass class_names")
        if not 0 <= labels.min() <= labels.max() < MOST_CLASSES:
            problem = f"is not from 0 to {MOST_CLASSES - 1:,}"
            raise FieldError("labels", int(labels.max()), problem, "pass classes in that range, or class_names")
        class_names = range(labels.max() + 1)
    names = as_names("class_names", class_names)
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if outside.size:
        at = outside[0]
        raise FieldError(f"labels[{at}]", int(labels[at]), f"is not in [0, {len(names)})", "pass a name for each class")
    return labels, names


def checked_verdicts(name: str, verdicts, labels: np.ndarray) -> np.ndarray:
    """Whether each image is classified correctly, bool [N]; the argument `name` is that, or has `is_robust` [N]."""
    is_correct = as_array(name, getattr(verdicts, "is_robust", verdicts))
    if is_correct.dtype != bool or is_correct.shape != labels.shape:
        found = f"{is_correct.dtype} {list(is_correct.shape)}"
        raise FieldError(name, found, f"is not bool {list(labels.shape)}", "pass one bool for each of the labels")
    return is_correct


def level(confidence: float) -> float:
    """The argument `confidence`, after checking that it is in (0, 1)."""
    confidence = number("confidence", confidence, 0, 1, remedy="pass 0.95, say")
    if confidence in (0, 1):
        raise FieldError("confidence", confidence, "is not strictly between 0 and 1", "pass 0.95, say")
    return confidence
