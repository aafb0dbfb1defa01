"""Findings: what a page and the terminal show first, a row for each."""

from collections.abc import Iterable
from typing import NamedTuple

from jaxrobust import formatting
from jaxrobust.formatting import probability
from jaxrobust.reports.tables import Column, Table

# Verdicts.
HIGHER, LOWER = "higher", "lower"  # of a significant difference
SIGNIFICANT, NOT_SIGNIFICANT, UNTESTABLE = "significant", "not significant", "no p below 5 % possible"  # of a test
CAUTION = "caution"
UNCORRECTED = "not corrected"  # for what runs share by being judged on the same images
LEVEL = 0.05  # of the tests


class Finding(NamedTuple):
    """One result of a page, as text."""

    what: str  # what was measured
    # value, interval: with unit where it is not percent or points; empty where there is none.
    value: str = ""
    interval: str = ""
    verdict: str = ""  # one of the words above, or of `comparison.differences`; empty where nothing was tested
    note: str = ""  # further numbers, in a few words


def direction(difference: float, significant: bool) -> str:
    """The verdict on a difference."""
    if not significant:
        return NOT_SIGNIFICANT
    return HIGHER if difference > 0 else LOWER


def tested(p_value: float, least_p: float = 0.0) -> str:
    """The verdict of a test, of which `least_p` is the smallest p-value that it can give."""
    if least_p >= LEVEL:
        return UNTESTABLE
    return SIGNIFICANT if p_value < LEVEL else NOT_SIGNIFICANT


def p_of(p_value: float, null: str) -> str:
    """A p-value with its hypothesis, in about five words."""
    return f"p = {formatting.p_value(p_value)} (null: {null})"


def under(attack: str) -> str:
    """As in "accuracy under pgd20"."""
    return "without attack" if attack == "clean" else f"under {attack}"


def few(names, number: int = 5) -> str:
    """The names, or the first few and how many more."""
    names = list(names)
    return ", ".join(names[:number]) + (f" and {len(names) - number} more" if len(names) > number else "")


def likely(candidates: Iterable[dict], number: int = 6) -> str:
    """The candidates for the worst class, see `classwise.Score.worst_record`, with their probabilities."""
    return few((f"{row['name']} ({probability(row['probability'])})" for row in candidates), number)


def table(findings: list[Finding]) -> Table:
    """Findings for a page and the terminal."""
    columns = [Column("finding" if name == "what" else name, name) for name in Finding._fields]
    return Table(columns, findings, sortable=False)
