"""Objectives of adversarial training, as per-example losses: one file each, by name here. See objective.py.

A new one is a file beside these and an entry in `_OBJECTIVES`.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxrobust.objectives.bat import bat
from jaxrobust.objectives.free import free
from jaxrobust.objectives.mart import mart
from jaxrobust.objectives.n_fgsm import n_fgsm
from jaxrobust.objectives.objective import Criterion, LossOutput, Objective, criterion, cross_entropy
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.standard import standard
from jaxrobust.objectives.trades import CLIMBS, trades
from jaxrobust.objectives.variance_penalty import variance_penalty


class Settings(NamedTuple):
    """The settings of all objectives; the fields are those of `config.objective` and are documented there."""

    label_smoothing: float = 0.0
    beta: float = 6.0
    noise: float = 2.0
    replays: int = 8
    variance: float = 0.1
    climb: str = "divergence"


_OBJECTIVES: dict[str, Callable[[Criterion, Settings], Objective]] = {
    "standard": lambda loss, of: standard(loss),
    "pgd_at": lambda loss, of: pgd_at(loss),
    "trades": lambda loss, of: trades(loss, of.beta, of.climb),
    "mart": lambda loss, of: mart(loss, of.beta),
    "fgsm_rs": lambda loss, of: pgd_at(loss),
    "n_fgsm": lambda loss, of: n_fgsm(loss, of.noise),
    "free": lambda loss, of: free(loss, of.replays),
    "bat": lambda loss, of: bat(loss, of.beta),
    "variance_penalty": lambda loss, of: variance_penalty(loss, of.variance),
}
NAMES = tuple(_OBJECTIVES)
# Objectives whose attack is a single step, and the published step size, in radii.
SINGLE_STEPS = {"fgsm_rs": 1.25, "n_fgsm": 1.0, "free": 1.0}
# Objectives whose published code attacks the model in evaluation mode; that of the others in training mode.
ATTACK_IN_EVALUATION = ("trades", "mart", "bat", "variance_penalty")


def create(name: str, settings: Settings, loss: Callable | None = None) -> Objective:
    """The objective with this name, one of `NAMES`.

    Args:
        loss: (logits [B, C], labels [B]) -> [B], in the place of the cross-entropy: what training minimises and attacks
            on it maximise. Label smoothing is then of no effect.
    """
    return _OBJECTIVES[name](criterion(settings.label_smoothing, loss), settings)
