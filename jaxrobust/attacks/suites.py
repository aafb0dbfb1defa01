"""The attacks of an evaluation, by the names that `eval.attacks` uses.

    clean       no perturbation
    fgsm        one step of the whole radius from the image itself (Goodfellow et al. 2015)
    pgdK        K steps of PGD on the cross-entropy from a random start
    cwK         the same on the margin loss of Carlini & Wagner (2017)
    pgd_tK      PGD towards each of the nine most likely wrong classes in turn; cw_tK the same on the margin
    apgd_ce     Auto-PGD on the cross-entropy, 100 steps (Croce & Hein 2020)
    apgd_dlr    the same on the difference of logits ratio
    apgd_t      the same on the targeted ratio, towards each of the nine most likely wrong classes
    fab, fab_t  FAB, 100 steps (Croce & Hein 2020), towards the nearest class, or each of the nine most likely
    square      Square Attack, 5,000 queries (Andriushchenko et al. 2020)
    spsa        gradients estimated from 128 queries, 100 steps (Uesato et al. 2018)

With fewer than ten classes there are fewer targets. A number after a name is its steps or queries, xR after that its
restarts: pgd50x10, apgd_cex5, square1000. Several attacks, joined by +, are a suite. Its result for an example is the
worst case over its members; each member attacks only the examples that the members before it did not break. These
suites have names:

    fast        pgd20+cw20
    standard    apgd_ce+apgd_t+fab_t+square, the protocol of AutoAttack (Croce & Hein 2020, for L1 2021)
    plus        apgd_cex5+apgd_dlrx5+fabx5+square+apgd_t+fab_t, its longer form
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.apgd import Apgd
from jaxrobust.attacks.apgd_l1 import ApgdL1
from jaxrobust.attacks.attack import Attack
from jaxrobust.attacks.fab import Fab
from jaxrobust.attacks.pgd import PgdAttack
from jaxrobust.attacks.spsa import Spsa
from jaxrobust.attacks.square import Square
from jaxrobust.errors import FieldError

TARGETS = 9


class Made(NamedTuple):
    """What an entry of the registry makes its attack from."""

    norm: str
    num_classes: int
    loss: Callable | None  # that of the entry, in its targeted form if there are targets; None if the entry has none
    budget: dict  # iterations and restarts
    targets: int  # wrong classes to aim at; 0: untargeted
    relative_step: float | None  # step as a share of the radius; None for an attack that chooses its own


class Entry(NamedTuple):
    """A kind of attack. To add one, write it as attack.py says and give it an entry in `ATTACKS`."""

    make: Callable[[Made], Attack]  # Made -> Attack
    iterations: int = 0  # steps or queries of a run; 0: the name has to say, as pgd20 does
    loss: str | None = None  # name of the loss that it maximises; None if there is none to choose
    targeted: bool = False  # whether it aims at the most likely wrong classes one by one
    # of each iteration as a share of the radius, "given" by the caller; None if it chooses its own.
    step: float | str | None = None
    norms: tuple[str, ...] = threats.NAMES  # in which it exists
    fewest: Mapping[str, int] = MappingProxyType({})  # iterations in a norm
    queries: bool = False  # whether it needs no gradient


def _pgd(m: Made, **options) -> Attack:
    options |= m.budget
    return PgdAttack(threats.NORMS[m.norm], m.loss, targets=m.targets, relative_step=m.relative_step, **options)


def _apgd(m: Made) -> Attack:
    if m.norm == "l1":
        return ApgdL1(m.loss, steps=m.budget["iterations"], restarts=m.budget["restarts"], targets=m.targets)
    return Apgd(threats.NORMS[m.norm], m.loss, targets=m.targets, **m.budget)


def _fab(m: Made) -> Attack:
    return Fab(m.norm, m.num_classes, targets=m.targets, **m.budget)


_IN_L1 = MappingProxyType({"l1": 5})
ATTACKS = {
    "fgsm": Entry(lambda m: _pgd(m, random_start=False), 1, "cross_entropy", step=1.0),
    "pgd": Entry(_pgd, loss="cross_entropy", step="given"),
    "cw": Entry(_pgd, loss="margin", step="given"),
    "pgd_t": Entry(_pgd, loss="cross_entropy", targeted=True, step="given"),
    "cw_t": Entry(_pgd, loss="margin", targeted=True, step="given"),
    "apgd_ce": Entry(_apgd, 100, "cross_entropy", fewest=_IN_L1),
    "apgd_dlr": Entry(_apgd, 100, "dlr", fewest=_IN_L1),
    "apgd_t": Entry(_apgd, 100, "dlr", targeted=True, fewest=_IN_L1),
    "fab": Entry(_fab, 100),
    "fab_t": Entry(_fab, 100, targeted=True),
    "square": Entry(lambda m: Square(m.norm, **m.budget), 5000, "margin", queries=True),
    "spsa": Entry(lambda m: Spsa(m.norm, **m.budget), 100, "margin", norms=("linf", "l2"), queries=True),
}
MOST_STEPS, MOST_RESTARTS = 10**6, 10**3
_NUMBER = r"([1-9]\d{0,11})"
_NAME = re.compile(rf"({'|'.join(sorted(ATTACKS, key=len, reverse=True))}){_NUMBER}?(?:x{_NUMBER})?", re.ASCII)

_STANDARD = ("apgd_ce", "apgd_t", "fab_t", "square")
_PLUS = ("apgd_cex5", "apgd_dlrx5", "fabx5", "square", "apgd_t", "fab_t")
_SUITES = {"fast": ("pgd20", "cw20"), "standard": _STANDARD, "plus": _PLUS}
# As published, five restarts and five targets for L1, where a run costs the same but finds less.
_L1_STANDARD = ("apgd_cex5", "apgd_t", "fab_t", "square")
_L1_TARGETS = 5


@dataclasses.dataclass(frozen=True)
class AttackSpec:
    """One attack, as specified by its name."""

    name: str
    kind: str  # the name without its numbers, a key of `ATTACKS`
    iterations: int  # steps of a run
    restarts: int = 1  # how many times it is run, for each target
    targets: int = 0  # the number of wrong classes that it aims at one by one, at most; 0: untargeted

    def relative_step(self, relative_step: float) -> float | None:
        """Its step as a share of the radius, if the configured one is `relative_step`; None if it chooses its own."""
        step = ATTACKS[self.kind].step
        return relative_step if step == "given" else step

    def loss(self, num_classes: int) -> str | None:
        """Name of the loss that it maximises; with few classes this differs from the loss in the attack's name."""
        name = ATTACKS[self.kind].loss
        return name and losses.name_in_use(name, num_classes, targeted=self.targets > 0)

    def passes(self, norm: str, num_classes: int) -> float:
        """Cost of all its runs on an example that none breaks, in forward passes; judging is not counted."""
        attack = self.build(norm, num_classes)
        return attack.runs * (attack.start_passes + attack.iterations * attack.step_passes)

    def build(self, norm: str, num_classes: int, relative_step: float = 0.25) -> Attack:
        """The attack in a norm of threats.NAMES; `relative_step` is that of PGD as a share of the radius."""
        entry, targets = ATTACKS[self.kind], min(self.targets, num_classes - 1)
        loss = entry.loss and (losses.TARGETED_LOSSES if targets else losses.LOSSES)[entry.loss]
        budget = {"iterations": self.iterations, "restarts": self.restarts}
        return entry.make(Made(norm, num_classes, loss, budget, targets, self.relative_step(relative_step)))


@dataclasses.dataclass(frozen=True)
class Suite:
    """The attacks of one entry of `eval.attacks`."""

    name: str  # as given
    members: tuple[AttackSpec, ...]  # in the order in which they attack; none for the clean images

    @property
    def stages(self) -> dict[str, AttackSpec]:
        """The members by the name of the result after each; a single member has the name of the entry."""
        if len(self.members) == 1:
            return {self.name: self.members[0]}
        return {f"{self.name}/{member.name}": member for member in self.members}


def parse(name: str, norm: str = "linf", field: str = "eval.attacks") -> Suite:
    """The attacks that a name in `eval.attacks` stands for.

    Raises:
        FieldError: names `field`; the name is unknown, or the attack does not exist in that norm.
    """
    if not isinstance(name, str):
        raise FieldError(field, name, "is no name of an attack", "give one, for example 'pgd20'")
    if name == "clean":
        return Suite(name, ())
    is_l1_suite = norm == "l1" and name == "standard"
    parts = _L1_STANDARD if is_l1_suite else _SUITES.get(name) or name.split("+")
    members = tuple(_parse_attack(part, name, norm, field) for part in parts)
    plain = [dataclasses.replace(member, name="") for member in members]  # one attack may have two names
    twice = [member.name for i, member in enumerate(members) if plain[i] in plain[:i]]
    if twice:
        raise FieldError(field, name, f"names {twice[0]} twice", "name each attack of a suite once")
    if is_l1_suite:
        members = tuple(
            dataclasses.replace(member, targets=_L1_TARGETS) if member.kind == "apgd_t" else member
            for member in members
        )
    return Suite(name, members)


def _parse_attack(name: str, whole: str, norm: str, field: str) -> AttackSpec:
    if name == "clean":
        remedy = "name it by itself: no suite attacks what is wrong clean"
        raise FieldError(field, whole, "has clean for a member", remedy)
    match = _NAME.fullmatch(name)
    kind, iterations, restarts = match.groups() if match else ("", None, None)
    entry = ATTACKS.get(kind)
    steps = int(iterations or entry.iterations) if entry else 0
    if not steps or (kind == "fgsm" and name != kind):
        known = ", ".join(kind if entry.iterations else f"{kind}K" for kind, entry in ATTACKS.items())
        remedy = f"use clean, {known}, {', '.join(_SUITES)}, or several joined by +"
        raise FieldError(field, whole, f"{name!r} is unknown" if name != whole else "is unknown", remedy)
    if steps > MOST_STEPS or int(restarts or 1) > MOST_RESTARTS:
        problem = f"takes more than {MOST_STEPS:,} steps, or {MOST_RESTARTS:,} restarts"
        raise FieldError(field, whole, problem, "take fewer, for example pgd100 or pgd20x5")
    if norm not in entry.norms:
        raise FieldError(field, whole, f"has no {norm.upper()} form", "use square, which needs no gradient either")
    if steps < entry.fewest.get(norm, 1):
        remedy = f"give it at least {entry.fewest[norm]} steps"
        raise FieldError(field, whole, f"is too short for {norm.upper()}", remedy)
    return AttackSpec(name, kind, steps, int(restarts or 1), TARGETS if entry.targeted else 0)


def costliest(names, norm: str = "linf") -> AttackSpec | None:
    """Of the attacks with those names, the one with the most iterations in all its runs; None if there is none."""
    members = [member for name in names for member in parse(str(name), norm).members]
    return max(reversed(members), key=lambda m: m.iterations * m.restarts * max(m.targets, 1), default=None)
