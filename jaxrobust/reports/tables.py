"""Tables stated once, as columns and rows, and shown alike on a page (`table` in macros.html) and on the terminal.

Table([Column("class", "name"), Column("accuracy", "score.accuracy", percent, "score.interval")], rows, by="accuracy")
"""

import csv
import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from jaxrobust.formatting import clean, interval, known


class Column(NamedTuple):
    """What a column shows of a row. A place in a row is an index, a function, or keys and attributes joined by dots."""

    name: str  # the header
    # place of what cells are sorted by. A column with a string in it is left-aligned and sorted as text.
    value: int | str | Callable
    write: Callable[[Any], str] = known  # the value as text
    note: str | Callable = ""  # place of an interval, or of a text, that follows the value


class Cell(NamedTuple):
    value: Any
    text: str
    note: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows are nested dicts and objects, or sequences."""

    columns: Sequence[Column]
    rows: Iterable[Any]
    by: str = ""  # name of the column by which rows are sorted, last those without a value; empty: as they are given
    descending: bool = False  # the other way round
    below: Iterable[Any] = ()  # rows that stay at the end, such as sums
    # title, caption: a line above and below.
    title: str = ""
    caption: str = ""
    sortable: bool = True  # whether a reader can sort it on a page

    @functools.cached_property
    def bodies(self) -> list[list[list[Cell]]]:
        """The cells of `rows`, as sorted, and of `below`."""
        bodies = [[[_cell(row, column) for column in self.columns] for row in rows] for rows in (self.rows, self.below)]
        if self.by:
            at = [column.name for column in self.columns].index(self.by)
            bodies[0].sort(key=lambda row: (row[at].value is None, row[at].value or 0), reverse=self.descending)
        return bodies

    @functools.cached_property
    def is_text(self) -> list[bool]:
        """Of each column."""
        return [any(isinstance(row[i].value, str) for row in self.bodies[0]) for i in range(len(self.columns))]

    def __rich__(self) -> RichTable:
        shown = RichTable(box=box.SIMPLE, padding=(0, 1, 0, 0), title=Text(self.title), caption=Text(self.caption))
        rows, widths = [row for body in self.bodies for row in body], []
        for i, (column, is_text) in enumerate(zip(self.columns, self.is_text, strict=True)):
            shown.add_column(Text(column.name), justify="left" if is_text else "right")
            # Numbers keep below each other, whatever stands behind them.
            widths.append(0 if is_text else max((len(row[i].note) for row in rows), default=0))
        for body in self.bodies:
            for row in body:
                pairs = zip(row, widths, strict=True)
                texts = (
                    f"{cell.text} {cell.note:{width}}" if cell.note or width else cell.text for cell, width in pairs
                )
                shown.add_row(*map(Text, texts))  # Text and not str: a class may be called [b]
            shown.add_section()
        return shown


def _cell(row, column: Column) -> Cell:
    value, note = _at(row, column.value), _at(row, column.note) if column.note else ""
    return Cell(value, clean(column.write(value)), clean(note if isinstance(note, str) else interval(note)))


def _at(row, place: int | str | Callable):
    if isinstance(place, int):
        return row[place]
    if callable(place):
        return place(row)
    for name in place.split("."):
        if row is not None:
            row = row[name] if isinstance(row, dict) else getattr(row, name)
    return row


def to_csv(header: Iterable, rows: Iterable[Iterable]) -> str:
    """Comma-separated values; None is empty."""
    buffer = io.StringIO()
    cleaned = ([clean(cell) if isinstance(cell, str) else cell for cell in row] for row in [header, *rows])
    csv.writer(buffer, lineterminator="\n").writerows(cleaned)
    return buffer.getvalue()


def records_to_csv(records: Sequence[dict]) -> str:
    """A line for each of the dicts, which have the same keys."""
    return to_csv(records[0], (record.values() for record in records))
