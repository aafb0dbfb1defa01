"""Remedies: controllers that set the class knobs from observed class statistics.

    remedy = create("cfa+resample", run, "true", 0.5, settings)
    knobs, state = remedy.init(class_counts)
    knobs, state = remedy.update(statistics, state)    # at the end of every epoch

Both functions are pure and jittable. Knobs and state (any pytree) are part of the train state and of its checkpoints.

A remedy consists of rules. The rules of long_tail.py compensate for rare classes; the counts that define rarity come
from counts.py. The rules of difficulty.py use the accuracies or losses of the classes, those of confusion.py use the
confusions between classes, and the rule of fixed.py uses no statistics. A new rule is a function in one of these files
and an entry in its RULES; each of its settings is a row in config/fields.py. Several rules can be combined, for example
`ldam+reweight`, but each knob may be set by one rule only.

Remedies after training replace the head of a trained model. They are not controllers, and are in posthoc/remedies.py.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.errors import FieldError, listed
from jaxrobust.remedies import confusion, counts as counts_lib, difficulty, fixed, knobs as knobs_lib, long_tail
from jaxrobust.remedies.rule import Rule, Run

COUNTS = counts_lib.KINDS
_RULES = long_tail.RULES | difficulty.RULES | confusion.RULES | fixed.RULES
NAMES = ("none", *_RULES)


class Remedy(NamedTuple):
    """See the module's docstring."""

    init: Callable  # class counts [C] -> (knobs, state), before training
    update: Callable  # (statistics of an epoch, state) -> (knobs, state)
    statistics: tuple[str, ...] = ()  # names of the statistics that `update` needs in addition to statistics.ALWAYS
    by_counts: bool = False  # whether it depends on the class counts (true counts or their replacement, see counts.py)
    uses_statistics: bool = False  # whether it depends on the statistics that `update` receives
    in_batch: tuple[Callable, ...] = ()  # functions that compute class weights from the current batch, see in_batch.py
    # None, or (state, statistics of the validation split) -> (decay of the averaged weights for this epoch, state);
    # this replaces the average over steps.
    average: Callable | None = None


def none() -> Remedy:
    """Plain training: neutral knobs that never move."""
    return Remedy(
        init=lambda class_counts: (knobs_lib.neutral(len(class_counts)), {}),
        update=lambda statistics, state: (knobs_lib.neutral(len(statistics["count"])), state),
    )


def create(name: str, run: Run, counts: str, counts_decay: float, settings: Mapping[str, Mapping]) -> Remedy:
    """The remedy with this name: one of `NAMES`, or several of them joined by +.

    Args:
        counts, counts_decay: what stands for the examples of a class, see counts.py.
        settings: name of a remedy -> its own settings, by name; contains only remedies with settings.

    Raises:
        FieldError: see `parse`; or two rules set the same knob, or a rule sets a knob that the objective does not use.
    """
    names = parse(name)
    if names == ("none",):
        return none()
    rules = {part: _RULES[part](run, **settings.get(part, {})) for part in names}
    _check_knobs(name, rules, run)
    first = run.first_epoch

    def knobs_at(state):
        counts, epoch = state["counts"], state["epoch"]
        values = {}
        for part, rule in rules.items():
            values |= rule.knob_values(state["rules"][part], counts, epoch / run.num_epochs)
        neutral = knobs_lib.neutral(len(counts), values)
        return neutral.replace(
            **{knob: jnp.where(epoch >= first, value, getattr(neutral, knob)) for knob, value in values.items()}
        )

    def init(class_counts):
        state = {
            "counts": counts_lib.init(class_counts),
            "epoch": jnp.zeros((), jnp.int32),
            "rules": {part: rule.init(class_counts) for part, rule in rules.items()},
        }
        return knobs_at(state), state

    def update(statistics, state):
        epoch, before = state["epoch"] + 1, state["rules"]
        after = {part: rule.update(before[part], statistics, epoch) for part, rule in rules.items()}
        state = {
            "counts": counts_lib.update(counts, state["counts"], statistics, counts_decay),
            "epoch": epoch,
            # Only from when the rules act: before, their state would collect statistics that they cannot affect.
            "rules": jax.tree.map(lambda old, new: jnp.where(epoch >= first, new, old), before, after),
        }
        return knobs_at(state), state

    def averaging(part):
        def average(state, validation):
            before = state["rules"][part]
            decay, after = rules[part].average(before, validation)
            begun = state["epoch"] >= first
            after = jax.tree.map(lambda old, new: jnp.where(begun, new, old), before, after)
            return jnp.where(begun, decay, 0.0), state | {"rules": state["rules"] | {part: after}}

        return average

    by_counts = any(rule.by_counts for rule in rules.values())
    remembers = any(rule.update is not Rule._field_defaults["update"] for rule in rules.values())
    needed = counts_lib.statistics(counts) + sum((rule.statistics for rule in rules.values()), ())
    return Remedy(
        init,
        update,
        statistics=tuple(dict.fromkeys(needed)),
        by_counts=by_counts,
        uses_statistics=remembers or (by_counts and counts != "true"),
        in_batch=tuple(rule.in_batch for rule in rules.values() if rule.in_batch),
        average=next((averaging(part) for part, rule in rules.items() if rule.average), None),
    )


def parse(name: str) -> tuple[str, ...]:
    """The remedies in a name such as `ldam+reweight` or `('ldam', 'reweight')`; FieldError for a wrong or double."""
    inner = name.strip().removeprefix("(").removesuffix(")").rstrip(", ")
    names = tuple(part.strip(" '\"") for part in re.split("[+,]", inner))
    for part in names:
        if part not in NAMES:
            raise FieldError("remedy.name", name, f"{part!r} is unknown", listed(NAMES))
    if "none" in names and len(names) > 1:
        raise FieldError("remedy.name", name, "is not a valid choice", "name one or more remedies, or only none")
    if len(set(names)) < len(names):
        raise FieldError("remedy.name", name, "names a remedy twice", "name each remedy once")
    return names


def without_effect(name: str, remedy: Remedy, counts: str, observe: str, class_counts) -> list[str]:
    """Sentences about settings, fields of `config.remedy`, that have no effect, or almost none, on a training with
    `class_counts` [C] images.
    """
    found, equal = [], (class_counts == class_counts[0]).all()
    if counts != "true" and not remedy.by_counts:
        found.append(f"remedy.counts = {counts!r} has no effect, because remedy.name = {name!r} does not use counts")
    if counts == "true" and remedy.by_counts and equal:
        found.append(
            f"remedy.counts = 'true': every class has {class_counts[0]:,} training images, so counts have no effect in "
            f"{name!r}; remedy.counts = robust_accuracy uses the difficulty of the classes in their place"
        )
    if observe == "validation" and name != "none" and not remedy.uses_statistics:
        found.append(f"remedy.observe = 'validation' has no effect, because {name!r} does not use class statistics")
    return found


def _check_knobs(name: str, rules: dict[str, Rule], run: Run) -> None:
    turned = {}
    for part, rule in rules.items():
        for knob in rule.knobs:
            if knob not in run.knobs:
                problem = f"{part} sets {knob}, which the objective does not use"
                raise FieldError("remedy.name", name, problem, "choose another remedy, or another objective.name")
            if knob in turned:
                problem = f"{turned[knob]} and {part} both set {knob}, and one would overwrite the other"
                raise FieldError("remedy.name", name, problem, f"leave out {turned[knob]} or {part}")
            turned[knob] = part
