"""Remedies: controllers from observed class statistics to class knobs.

A remedy is a pair of pure, jittable functions. `start(class_counts [C]) -> (knobs, memory)` is called before training,
`observe(knobs, memory, statistics) -> (knobs, memory)` at the end of every epoch. Knobs and memory (any pytree) are
part of the train state and of its checkpoints.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxrobust.remedies import knobs


class Remedy(NamedTuple):
    """See the module's docstring."""

    start: Callable
    observe: Callable


def none() -> Remedy:
    """Plain training: neutral knobs that never move."""
    return Remedy(
        start=lambda class_counts: (knobs.neutral(len(class_counts)), {}),
        observe=lambda knobs, memory, statistics: (knobs, memory),
    )


_REMEDIES = {"none": none}
NAMES = tuple(_REMEDIES)


def create(name: str) -> Remedy:
    """The remedy of that name, one of `NAMES`."""
    return _REMEDIES[name]()
