"""A setting: its name, default and meaning, and what it may hold. The tables of settings are made of these."""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust.errors import FieldError, listed


class Allowed(NamedTuple):
    """What a field may hold: `text` for a reader; `holds`: whether a value of its type is allowed, None: that is
    checked elsewhere, together with other fields; and the clauses of the error.
    """

    text: str = ""
    holds: Callable[[object], bool] | None = None
    problem: str = "is not valid"
    remedy: str = "give a value in this range"


class Field(NamedTuple):
    """A config field; `default` None stands for a number that need not be given."""

    name: str
    default: object
    meaning: str
    allowed: Allowed = Allowed()

    def typed(self, value):
        """The value in the field's type: lists as tuples, and NumPy's scalars and whole floats as Python's numbers.
        Raises FieldError if it has another type.
        """
        if value is None and self.default is None:
            return None
        kind = float if self.default is None else type(self.default)
        found = _typed(value, kind)
        if found is None:
            raise FieldError(self.name, value, f"is not {_KINDS[kind]}", f"give one, for example {self.example()!r}")
        return found

    def example(self):
        """A value of its type."""
        return 1.0 if self.default is None else self.default

    def check(self, value) -> None:
        """Raises FieldError unless the value is allowed."""
        if value is None and self.default is None:
            return
        value = self.typed(value)
        if self.allowed.holds is not None and not self.allowed.holds(value):
            raise FieldError(self.name, value, self.allowed.problem, self.allowed.remedy)

    def allowed_text(self) -> str:
        """What is allowed, for a reader."""
        if isinstance(self.default, bool):
            return "True | False"
        return self.allowed.text + (" | None" if self.default is None else "")


_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}
_LONGEST = 4096  # characters of a text, and entries of a tuple


def _typed(value, kind: type):
    """The value as the kind; None if it is not of it."""
    value = value.item() if isinstance(value, np.generic) else value
    if kind is str:
        value = str(value) if isinstance(value, os.PathLike) else value
        return value if isinstance(value, str) and len(value) <= _LONGEST and value.isprintable() else None
    if kind is tuple:
        is_one = isinstance(value, list | tuple) and len(value) <= _LONGEST
        entries = [_typed(entry, str if isinstance(entry, str) else float) for entry in value] if is_one else [None]
        # As they are: a label or a number of units stays an int.
        return tuple(value) if None not in entries else None
    if kind is bool or isinstance(value, bool):
        return value if type(value) is kind else None
    if kind is float and isinstance(value, int):
        return float(value) if abs(value) < 10**300 else None
    return value if isinstance(value, kind) else None


def one_of(*names: str) -> Allowed:
    return Allowed(" | ".join(names), lambda value: value in names, "is unknown", listed(names))


def some_of(*names: str, or_none: bool = False) -> Allowed:
    """Each at most once; with `or_none` also an empty tuple."""

    def holds(values) -> bool:
        return (or_none or len(values) > 0) and set(values) <= set(names) and len(set(values)) == len(values)

    problem = ("" if or_none else "is empty, or ") + "holds an unknown name or one twice"
    return Allowed(f"some of {', '.join(names)}", holds, problem, f"name some of {', '.join(names)}")


def between(least: float, most: float, problem: str = "", remedy: str = "give a value in this range") -> Allowed:
    text = f"{least:,} to {most:,}"
    return Allowed(text, lambda x: least <= x <= most, problem or f"must be from {text}", remedy)


def up_to(most: float) -> Allowed:
    return between(0, most)


def below(end: float) -> Allowed:
    return Allowed(f"0 <= x < {end}", lambda x: 0 <= x < end, f"must be at least 0 and below {end}")


def each(holds: Callable[[float], bool], what: str) -> Allowed:
    """At least one number, each of which `holds`."""

    def all_hold(values) -> bool:
        return len(values) > 0 and all(isinstance(value, int | float) and holds(value) for value in values)

    return Allowed(what, all_hold, problem=f"is not {what}", remedy="give such values")


def words(text: str) -> Allowed:
    """Any number of texts."""
    return Allowed(text, lambda entries: all(isinstance(e, str) for e in entries), f"is not {text}", "give these alone")


def table(section: str, *rows: tuple) -> dict[str, Field]:
    """The fields of the rows (name in the section, default, meaning, and what is allowed), by name in the section."""
    return {name: Field(f"{section}.{name}", *rest) for name, *rest in rows}
