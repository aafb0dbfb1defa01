"""Knobs set by hand, for interventions such as a larger radius for one class."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxrobust.errors import FieldError
from jaxrobust.remedies.rule import Rule, Run

MOST = {"radius": 10, "weight": 1000}  # the largest factors


def fixed(run: Run, *, radius: Sequence[str], weight: Sequence[str]) -> Rule:
    """Factors on the radius of the attack, and weights on the losses, given as "LABEL:FACTOR"; 1 for other classes.

    Raises:
        FieldError: there is no entry, an entry is not such a pair, or a label is given twice. Raised later, when the
            number of classes is known: a label does not exist.
    """
    if not (radius or weight):
        remedy = "give remedy.fixed.radius or remedy.fixed.weight, for example ('3:1.5',) for label 3"
        raise FieldError("remedy.name", "fixed", "sets nothing", remedy)
    factors = {"radius": _pairs("radius", radius), "weight": _pairs("weight", weight)}
    knobs = {"radius": ("radius_scale",) if radius else (), "weight": run.weights if weight else ()}

    def knob_values(state, counts, progress):
        values = {}
        for name, of in factors.items():
            scale = jnp.ones(len(counts))
            for label, factor in of.items():
                if label >= len(counts):
                    problem = f"there are {len(counts)} classes, numbered from 0"
                    raise FieldError(f"remedy.fixed.{name}", f"{label}:{factor:g}", problem, "correct the label")
                scale = scale.at[label].set(factor)
            values |= dict.fromkeys(knobs[name], scale)
        return values

    return Rule(sum(knobs.values(), ()), knob_values)


def _pairs(name: str, entries: Sequence[str]) -> dict[int, float]:
    pairs, most = {}, MOST[name]
    for entry in entries:
        label, _, factor = entry.partition(":")
        try:
            label, factor = int(label), float(factor)
        except ValueError:
            label = -1
        if not (label >= 0 and 0 <= factor <= most):
            remedy = f"write label and factor, up to {most:,}, for example 3:1.5"
            raise FieldError(f"remedy.fixed.{name}", tuple(entries), f"{entry!r} is not LABEL:FACTOR", remedy)
        if label in pairs:
            raise FieldError(f"remedy.fixed.{name}", tuple(entries), f"gives label {label} twice", "give it once")
        pairs[label] = factor
    return pairs


RULES = {"fixed": fixed}
