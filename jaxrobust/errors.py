"""The errors that a user can mend: each is one line that names the field, its value and the remedy."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Set
from numbers import Integral

from jaxrobust.formatting import clean

_SHOWN = 300  # characters of a value
_LISTED = 100  # names of what may be given
_MOST_NAMES = 10**6


class UserError(Exception):
    """Wrong input from outside. The command line prints it as one line and exits with `exit_code`."""

    exit_code = 2

    def __str__(self) -> str:
        return clean(super().__str__())


class FieldError(UserError):
    """An argument, a field of the config, or of the data it names, holds something that cannot be used.

    Args:
        field: name of the argument, or dotted name of the field, for example `threat.eps_255`. Who has another name for
            it, such as the command line for an option, sets it anew.
        value: what it holds.
        problem: what is wrong with it, as a clause.
        remedy: what to write or do instead, as a clause.
    """

    def __init__(self, field: str, value, problem: str, remedy: str):
        super().__init__(field, value, problem, remedy)
        self.field = field

    def __str__(self) -> str:
        _, value, problem, remedy = self.args
        return clean(" ".join(f"{self.field} = {_shown(value)}: {problem}; {remedy}".split()))


def number(field: str, value, least: float, most: float, *, kind: type = float, remedy: str = ""):
    """The value as the `kind`, an int or a float.

    Raises:
        FieldError: names the `field`; the value is no number, or not from `least` to `most`.
    """
    try:
        found = kind(value.item() if hasattr(value, "item") else value)
        is_allowed = not isinstance(value, str | bool) and found == value and least <= found <= most
    except (TypeError, ValueError, OverflowError):
        is_allowed = False
    if not is_allowed:
        what = "whole number" if kind is int else "number"
        raise FieldError(field, value, f"is no {what} from {least:,} to {most:,}", remedy or "give one")
    return found


def one_of(field: str, value, known: Collection[str], problem: str = "is unknown") -> None:
    """Raises FieldError, which names the `field`, unless the value is one of the names."""
    if not (isinstance(value, str) and value in known):
        raise FieldError(field, value, problem, listed(known))


def listed(known: Collection) -> str:
    """The remedy for a value that is none of those that are known."""
    more = ", ..." if len(known) > _LISTED else ""
    return f"give one of {', '.join(map(str, itertools.islice(known, _LISTED)))}{more}"


def as_names(field: str, value) -> tuple[str, ...]:
    """Texts, or whole numbers as texts, in a row. Raises FieldError, which names the `field`, for anything else."""
    names = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(names, Iterable) and not isinstance(names, str | bytes | Set | Mapping):
        names = tuple(itertools.islice(names, _MOST_NAMES + 1))
        if len(names) <= _MOST_NAMES and all(
            isinstance(name, str | Integral) and not isinstance(name, bool) for name in names
        ):
            return tuple(map(str, names))
    raise FieldError(field, value, "is no sequence of names", "give a tuple of texts")


def as_array(field: str, value):
    """The value as a NumPy array. Raises FieldError, which names the `field`, if it is none, or one of objects."""
    import numpy as np  # here: the command line starts without it

    try:
        array = np.asarray(value)
    except Exception as error:  # whatever an object of the user's own may raise
        raise FieldError(field, type(value).__name__, f"is no array ({error})", "give an array of numbers") from error
    if array.dtype.kind in "OSU":
        raise FieldError(field, type(value).__name__, "is no array of numbers", "give one")
    return array


def _shown(value) -> str:
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits, or an object of the user's own
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
