"""The definition of a probe: one number for each class, which may go along with the robustness of the class."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

EXAMPLES = 5000  # images of a split that probes use, by default


class Missing(Exception):
    """The inputs of a probe are not available in this run; the message names what is missing."""


class Probe(NamedTuple):
    """A number for each class."""

    name: str  # name in files and tables
    meaning: str  # description of the number, in one sentence
    family: str  # name of the family of the probe
    looks_at: str  # kind of inputs: only "data"; a "model" and data; or "results", which are verdicts under attacks
    sign: int  # sign of the correlation with robustness that theory predicts, 1 or -1; 0 if it predicts none
    measure: Callable  # inputs.Inputs -> [C] floats, nan for a class without a value. It may raise `Missing`.
    # whether it is computed from the same verdicts as robustness. Then it correlates with robustness by construction,
    # and explains nothing.
    built_in: bool = False


def of_family(family: str, looks_at: str) -> Callable[..., Probe]:
    """Makes the probes of a family from (name, sign, measure, meaning)."""

    def make(name, sign, measure, meaning, looks_at=looks_at, built_in=False):
        return Probe(name, meaning, family, looks_at, sign, measure, built_in)

    return make


def by_class(values, labels, num_classes: int, reduce: Callable = np.mean) -> np.ndarray:
    """`reduce` applied to the values [n] of each class, [C]; nan for a class without values."""
    values, labels = np.asarray(values, np.float64), np.asarray(labels)
    groups = (values[labels == c] for c in range(num_classes))
    return np.array([reduce(group) if group.size else np.nan for group in groups])
