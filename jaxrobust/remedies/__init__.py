"""Remedies: controllers from observed class statistics to class knobs.

A remedy is a pair of pure, jittable functions. `start(class_counts [C]) -> (knobs, memory)` is called before training,
`observe(knobs, memory, statistics) -> (knobs, memory)` at the end of every epoch. Knobs and memory (any pytree) are
part of the train state and of its checkpoints.

Those here make up for rare classes: what is rare is said by counts.py, the rules are in long_tail.py.

    none              plain training
    reweight          weights on the loss
    resample          how often an image is drawn
    ldam              a margin on the true logit
    balanced_softmax  a prior added to the logits, and logit_adjustment, the same times `tau`
    robust_lt         the radius of the attack, with a warm-up

Several of them, `ldam+reweight`, act together; each knob is turned by one of them at most.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from jaxrobust.errors import FieldError
from jaxrobust.remedies import counts as counts_lib
from jaxrobust.remedies import knobs as knobs_lib
from jaxrobust.remedies import long_tail

COUNTS = counts_lib.KINDS
WEIGHTINGS = ("inverse", "effective_number")
SAMPLINGS = ("balanced", "square_root", "progressive")


class Remedy(NamedTuple):
    """See the module's docstring."""

    start: Callable
    observe: Callable


class Settings(NamedTuple):
    """Of all remedies; the fields are those of `config.remedy`, which documents them, and `epochs`."""

    counts: str
    counts_decay: float
    begin: float
    weighting: str
    weighting_beta: float
    sampling: str
    largest_margin: float
    tau: float
    radius_strength: float
    radius_warmup: float
    epochs: int


def _reweight(settings, counts, progress):
    if settings.weighting == "inverse":
        weights = long_tail.inverse_frequency(counts)
    else:
        weights = long_tail.effective_number(counts, settings.weighting_beta)
    return {"weight_natural": weights, "weight_robust": weights}


def _resample(settings, counts, progress):
    if settings.sampling == "progressive":
        return {"sampling": long_tail.progressive_sampling(counts, progress)}
    return {"sampling": long_tail.sampling(counts, {"balanced": 0.0, "square_root": 0.5}[settings.sampling])}


def _ldam(settings, counts, progress):
    return {"margin": long_tail.ldam_margin(counts, settings.largest_margin)}


def _balanced_softmax(settings, counts, progress):
    return {"log_prior": long_tail.log_prior(counts, 1.0)}


def _logit_adjustment(settings, counts, progress):
    return {"log_prior": long_tail.log_prior(counts, settings.tau)}


def _robust_lt(settings, counts, progress):
    warmth = jnp.minimum(progress / settings.radius_warmup, 1.0) if settings.radius_warmup else 1.0
    return {"radius_scale": warmth * long_tail.radius_by_rarity(counts, settings.radius_strength)}


class _Rule(NamedTuple):
    """The knobs that it turns, and (settings, counts [C], progress through the training in [0, 1]) -> their values."""

    knobs: tuple[str, ...]
    values: Callable


_RULES = {
    "reweight": _Rule(("weight_natural", "weight_robust"), _reweight),
    "resample": _Rule(("sampling",), _resample),
    "ldam": _Rule(("margin",), _ldam),
    "balanced_softmax": _Rule(("log_prior",), _balanced_softmax),
    "logit_adjustment": _Rule(("log_prior",), _logit_adjustment),
    "robust_lt": _Rule(("radius_scale",), _robust_lt),
}
NAMES = ("none", *_RULES)


def none() -> Remedy:
    """Plain training: neutral knobs that never move."""
    return Remedy(
        start=lambda class_counts: (knobs_lib.neutral(len(class_counts)), {}),
        observe=lambda knobs, memory, statistics: (knobs, memory),
    )


def create(name: str, settings: Settings) -> Remedy:
    """The remedy of that name, one of `NAMES`, or several of them joined by +.

    Raises:
        FieldError: see `parse`.
    """
    names = parse(name)
    if names == ("none",):
        return none()
    rules = [partial(_RULES[part].values, settings) for part in names]

    def knobs_at(counts, epoch):
        progress = epoch / settings.epochs
        neutral = knobs_lib.neutral(len(counts))
        turned = {knob: value for rule in rules for knob, value in rule(counts, progress).items()}
        begun = epoch >= first_epoch(settings.begin, settings.epochs)
        return neutral.replace(
            **{knob: jnp.where(begun, value, getattr(neutral, knob)) for knob, value in turned.items()}
        )

    def start(class_counts):
        counts = counts_lib.start(class_counts)
        return knobs_at(counts, 0), {"counts": counts, "epoch": jnp.zeros((), jnp.int32)}

    def observe(knobs, memory, statistics):
        epoch = memory["epoch"] + 1
        counts = counts_lib.observe(settings.counts, memory["counts"], statistics, settings.counts_decay)
        return knobs_at(counts, epoch), {"counts": counts, "epoch": epoch}

    return Remedy(start, observe)


def first_epoch(begin: float, epochs: int) -> int:
    """The epoch, counted from 0, in which a remedy begins at that fraction of the training."""
    return round(begin * epochs)


def parse(name: str) -> tuple[str, ...]:
    """The remedies of a name such as `ldam+reweight`, or `('ldam', 'reweight')`.

    Raises:
        FieldError: one is unknown, or two turn the same knob.
    """
    names = tuple(re.findall(r"[^\s,+()'\"]+", name))
    for part in names:
        if part not in NAMES:
            raise FieldError("remedy.name", name, f"{part!r} is unknown", f"choose of {', '.join(NAMES)}")
    if not names or ("none" in names and len(names) > 1):
        raise FieldError("remedy.name", name, "is no choice", "name remedies, or none alone")
    turned = {}
    for part in names:
        for knob in _RULES[part].knobs if part != "none" else ():
            if knob in turned:
                problem = f"{turned[knob]} and {part} both set {knob}, and one would undo the other"
                raise FieldError("remedy.name", name, problem, f"leave out {turned[knob]} or {part}")
            turned[knob] = part
    return names
