"""The attacks of an evaluation, by the names that `eval.attacks` uses.

    clean      no perturbation
    fgsm       one step of the whole radius from the image itself (Goodfellow et al. 2015)
    pgdK       K steps of PGD on the cross-entropy from a random start
    cwK        the same on the margin loss of Carlini & Wagner (2017)
    pgdKxR     either with R restarts

All but `clean` keep the worst iterate.
"""

import dataclasses
import re
from collections.abc import Callable

from jaxrobust.attacks import losses, pgd, threats
from jaxrobust.errors import FieldError

_ITERATED = re.compile(r"(pgd|cw)([1-9]\d*)(?:x([1-9]\d*))?")
_LOSS_OF = {"pgd": "cross_entropy", "cw": "margin"}


@dataclasses.dataclass(frozen=True)
class AttackSpec:
    """An attack of an evaluation, as its name says."""

    name: str
    loss: str = "cross_entropy"
    steps: int = 0  # 0: clean
    restarts: int = 1
    random_start: bool = True

    def step_size(self, radius: float, step_size: float) -> float | None:
        """The step this attack takes: FGSM goes the whole radius at once; clean takes none."""
        if self.steps == 0:
            return None
        return radius if self.name == "fgsm" else step_size

    def build(self, norm: str) -> tuple[pgd.Pgd, Callable]:
        """The attack and the loss that it climbs."""
        attack = pgd.Pgd(threats.NORMS[norm], self.steps, self.restarts, self.random_start, keep_worst=True)
        return attack, losses.LOSSES[self.loss]


def parse(name: str) -> AttackSpec:
    """The attack of that name.

    Raises:
        FieldError: there is none.
    """
    if name == "clean":
        return AttackSpec(name)
    if name == "fgsm":
        return AttackSpec(name, steps=1, random_start=False)
    match = _ITERATED.fullmatch(name)
    if not match:
        raise FieldError("eval.attacks", name, "is unknown", "use clean, fgsm, pgdK, cwK, pgdKxR or cwKxR")
    kind, steps, restarts = match.groups()
    return AttackSpec(name, _LOSS_OF[kind], int(steps), int(restarts or 1))


def strongest(names) -> AttackSpec:
    """Of the attacks of those names, the one of most gradients; of several, the last."""
    return max(reversed([parse(str(name)) for name in names]), key=lambda spec: spec.steps * spec.restarts)
