"""Objectives of adversarial training, as per-example losses: one file each, by name here. See objective.py.

A new one is a file beside these and an entry in `OBJECTIVES`; a setting of its own is a row of `SETTINGS`.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxrobust import settings
from jaxrobust.objectives.bat import bat
from jaxrobust.objectives.free import free
from jaxrobust.objectives.mart import mart
from jaxrobust.objectives.n_fgsm import n_fgsm
from jaxrobust.objectives.objective import Objective, criterion
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.objectives.standard import standard
from jaxrobust.objectives.trades import CLIMBS, trades
from jaxrobust.objectives.variance_penalty import variance_penalty

# The settings of objectives, which are fields of `config.objective` and arguments of `fit` too; several may share one.
SETTINGS = settings.table(
    "objective",
    ("label_smoothing", 0.0, "share of the target that is spread over all classes", settings.below(1)),
    ("beta", 6.0, "trades, mart, bat: weight of the divergence", settings.up_to(1000)),
    ("climb", "divergence", "trades: what its attack climbs", settings.one_of(*CLIMBS)),
    ("noise", 2.0, "n_fgsm: how far away it starts, in radii", settings.up_to(100)),
    ("replays", 8, "free: updates on each batch", settings.between(1, 1000)),
    ("variance", 0.1, "variance_penalty: weight of the variance of the classes' losses", settings.up_to(1000)),
)


class Entry(NamedTuple):
    """An objective, and how it was published.

    Attributes:
        make: Criterion, then its settings -> Objective.
        settings: their names in `SETTINGS`.
        single_step: size of the only step of its attack, in radii; 0: it takes any number of steps.
        eval_attack: whether its attack sees the model in evaluation mode.
    """

    make: Callable[..., Objective]
    settings: tuple[str, ...] = ()
    single_step: float = 0.0
    eval_attack: bool = False


OBJECTIVES = {
    "standard": Entry(standard),
    "pgd_at": Entry(pgd_at),
    "trades": Entry(trades, ("beta", "climb"), eval_attack=True),
    "mart": Entry(mart, ("beta",), eval_attack=True),
    "fgsm_rs": Entry(pgd_at, single_step=1.25),
    "n_fgsm": Entry(n_fgsm, ("noise",), single_step=1.0),
    "free": Entry(free, ("replays",), single_step=1.0),
    "bat": Entry(bat, ("beta",), eval_attack=True),
    "variance_penalty": Entry(variance_penalty, ("variance",), eval_attack=True),
}
NAMES = tuple(OBJECTIVES)
ATTACK_IN_EVALUATION = tuple(name for name, entry in OBJECTIVES.items() if entry.eval_attack)


def create(name: str, loss: Callable | None = None, **given) -> Objective:
    """The objective with this name, one of `NAMES`.

    Args:
        loss: (logits [B, C], labels [B]) -> [B], in the place of the cross-entropy: what training minimises and attacks
            on it maximise. Label smoothing is then of no effect.
        given: settings, of this objective or of others, by their names in `SETTINGS`, where their defaults are.

    Raises:
        KeyError: a setting does not exist.
        FieldError: one has a value that is not allowed.
    """
    for setting, value in given.items():
        SETTINGS[setting].check(value)
    values = {setting: field.default for setting, field in SETTINGS.items()} | given
    entry = OBJECTIVES[name]
    return entry.make(criterion(values["label_smoothing"], loss), *(values[setting] for setting in entry.settings))
