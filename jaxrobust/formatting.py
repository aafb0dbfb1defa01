"""Numbers as text, for pages, figures, tables and messages. A value that is not defined (None) becomes a dash.

And names from outside as text that can be shown, see `clean`.
"""

import unicodedata

NOTHING = "\N{EN DASH}"  # stands for a value that is not defined
NO_CLASS = "no class"  # stands for the prediction -1, of logits that are not finite


def clean(text: str) -> str:
    """A text on one line, without what would act on a terminal or turn the writing round: control characters, marks of
    direction and the like are written as Python escapes them, "\\x1b".
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in "\t\n\r\v\f":
        return " "
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    # Some scripts need the last two, which join letters or keep them apart.
    return character.encode("unicode_escape").decode() if hidden and character not in "\u200c\u200d" else character


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal, without the sign %."""
    return NOTHING if fraction is None else f"{100 * fraction:.1f}"


def percentage(fraction: float | None) -> str:
    """The same with the sign %."""
    return NOTHING if fraction is None else f"{percent(fraction)} %"


def spaced(name: str) -> str:
    """A name in words."""
    return name.replace("_", " ")


def points(difference: float | None) -> str:
    """A difference of two fractions in percentage points, always with its sign."""
    return NOTHING if difference is None else decimals(100 * difference, 1, "+")


def interval(ends: tuple[float, float] | None) -> str:
    """An interval of fractions in percent, "[12.3, 45.6]"; empty for None."""
    return "" if ends is None else f"[{decimals(100 * ends[0], 1)}, {decimals(100 * ends[1], 1)}]"


def decimals(value: float, places: int, sign: str = "") -> str:
    """A number with a fixed number of decimals, never "-0". With sign="+", positive numbers get a sign as well."""
    rounded = round(value, places) or 0.0
    return f"{rounded:{sign if rounded else ''}.{places}f}"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless the number is 1: "1 run", "2 runs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ratio(value: float | None) -> str:
    """A number with three decimals."""
    return NOTHING if value is None else f"{value:.3f}"


def probability(value: float) -> str:
    """A probability with two decimals; "<0.01" if it would be rounded to 0."""
    return f"{value:.2f}" if value >= 0.005 else "<0.01"


def p_value(value: float | None) -> str:
    """A p-value with three decimals; with two significant digits if it is below 0.001."""
    if value is None:
        return NOTHING
    return f"{value:.3f}" if value >= 0.001 else f"{value:.2g}"


def radius(eps: float | None, norm=None) -> str:
    """A length in pixel units of [0, 1]. For the Linf norm it is written in 255ths, as papers write it."""
    if eps is None:
        return NOTHING
    return f"{eps * 255:.4g}/255" if str(norm).lower() == "linf" else f"{eps:.4g}"


def norm(name) -> str:
    """The usual symbol of a norm: "L∞" for "linf"; other names stay as they are."""
    return NOTHING if name is None else {"linf": "L∞", "l2": "L2", "l1": "L1"}.get(str(name).lower(), str(name))


def known(value) -> str:
    """Any value as text."""
    return NOTHING if value is None else str(value)


def rounded(value: float | None) -> str:
    """A large number as an integer with thousands separators."""
    return NOTHING if value is None else f"{value:,.0f}"
