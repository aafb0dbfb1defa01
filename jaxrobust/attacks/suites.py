"""The attacks of an evaluation, by the names that `eval.attacks` uses.

    clean      no perturbation
    fgsm       one step of the whole radius from the image itself (Goodfellow et al. 2015)
    pgdK       K steps of PGD on the cross-entropy from a random start
    cwK        the same on the margin loss of Carlini & Wagner (2017)
    NAMExR     with R restarts

Several of them, joined by +, are a suite: the worst case over its members for each example, of which each attacks what
the ones before it left. Three suites have names:

    fast       pgd20+cw20
"""

import dataclasses
import re

from jaxrobust.attacks import losses, pgd, threats
from jaxrobust.attacks.attack import Attack
from jaxrobust.errors import FieldError

_NAME = re.compile(r"([a-z]+(?:_[a-z]+)?)([1-9]\d*)?(?:x([1-9]\d*))?")
_SUITES = {"fast": ("pgd20", "cw20")}


@dataclasses.dataclass(frozen=True)
class AttackSpec:
    """One attack, as its name says.

    Attributes:
        name: as given.
        kind: the name without its numbers.
        iterations: steps of a run.
        restarts: how often it is run, for an attack that draws random numbers.
    """

    name: str
    kind: str
    iterations: int
    restarts: int = 1

    def relative_step(self, relative_step: float) -> float | None:
        """The step that it takes, as a share of the radius, where the usual one is `relative_step`."""
        return {"fgsm": 1.0, "pgd": relative_step, "cw": relative_step}.get(self.kind)

    def build(self, norm: str, num_classes: int, relative_step: float = 0.25) -> Attack:
        """The attack.

        Args:
            norm: one of threats.NAMES.
            relative_step: step of PGD as a share of the radius.
        """
        return pgd.PgdAttack(
            norm=threats.NORMS[norm],
            loss=losses.margin if self.kind == "cw" else losses.cross_entropy,
            iterations=self.iterations,
            restarts=self.restarts,
            random_start=self.kind != "fgsm",
            relative_step=self.relative_step(relative_step),
        )


@dataclasses.dataclass(frozen=True)
class Suite:
    """What an entry of `eval.attacks` stands for.

    Attributes:
        name: as given.
        members: in the order in which they attack; none for the clean images.
    """

    name: str
    members: tuple[AttackSpec, ...]

    @property
    def stages(self) -> dict[str, AttackSpec]:
        """The members by the name of the result after each: its own where there is only one."""
        if len(self.members) == 1:
            return {self.name: self.members[0]}
        return {f"{self.name}/{member.name}": member for member in self.members}


def parse(name: str) -> Suite:
    """What that name stands for.

    Raises:
        FieldError: nothing.
    """
    if name == "clean":
        return Suite(name, ())
    members = tuple(_parse_attack(part, name) for part in _SUITES.get(name) or name.split("+"))
    twice = [member.name for i, member in enumerate(members) if member in members[:i]]
    if twice:
        raise FieldError("eval.attacks", name, f"names {twice[0]} twice", "name each attack of a suite once")
    return Suite(name, members)


def _parse_attack(name: str, whole: str) -> AttackSpec:
    match = _NAME.fullmatch(name)
    kind, iterations, restarts = match.groups() if match else ("", None, None)
    if kind == "fgsm" and not iterations and not restarts:
        return AttackSpec(name, kind, iterations=1)
    if kind in ("pgd", "cw") and iterations:
        return AttackSpec(name, kind, int(iterations), int(restarts or 1))
    known = f"clean, fgsm, pgdK, cwK, with xR for R restarts, {', '.join(_SUITES)}, or several joined by +"
    raise FieldError("eval.attacks", whole, "is unknown", f"use {known}")


def costliest(names) -> AttackSpec | None:
    """Of the attacks of those names, the one of most iterations; None if there is none."""
    members = [member for name in names for member in parse(str(name)).members]
    return max(reversed(members), key=lambda member: member.iterations * member.restarts, default=None)
