"""The errors that a user can mend: each is one line that names the field, its value and the remedy."""

from collections.abc import Sequence

from jaxrobust.formatting import clean

_SHOWN = 300  # characters of a value


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
        raise FieldError(field, value, f"is no {what} from {least:,} to {most:,}", remedy or "correct the value")
    return found


def one_of(field: str, value, known: Sequence[str]) -> None:
    """Raises FieldError, which names the `field`, unless the value is one of the names."""
    if not (isinstance(value, str) and value in known):
        raise FieldError(field, value, "is unknown", f"give one of {', '.join(known)}")


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
