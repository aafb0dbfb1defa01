"""What a probe is: one number for each class, which may go along with the class's robustness."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

EXAMPLES = 5000  # images of a split that probes look at, by default
LOOKS_AT = ("data", "model", "results")


class Missing(Exception):
    """A probe has nothing to look at in this run; the message says what it would need."""


class Probe(NamedTuple):
    """A number for each class.

    Attributes:
        name: in files and tables.
        meaning: what the number is, in one sentence.
        family: of which the probe is.
        looks_at: "data" alone, a "model" with data, or its "results", which are verdicts under attacks.
        sign: of the correlation with robustness that theory lets expect, 1 or -1; 0 where arguments go both ways.
        measure: subject.Subject -> [C] floats, nan for a class that has none. It raises `Missing`.
        built_in: made of the verdicts that robustness is made of, so that it goes along with it by construction, and
            is no explanation.
    """

    name: str
    meaning: str
    family: str
    looks_at: str
    sign: int
    measure: Callable
    built_in: bool = False


def by_class(values, labels, num_classes: int, reduce: Callable = np.mean) -> np.ndarray:
    """`reduce` of the values [n] of each class, [C]; nan for a class without any."""
    values, labels = np.asarray(values, np.float64), np.asarray(labels)
    groups = (values[labels == c] for c in range(num_classes))
    return np.array([reduce(group) if group.size else np.nan for group in groups])
