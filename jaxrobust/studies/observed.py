"""What the runs of a study have found, as arrays: read once, from the files of the runs that are done."""

import dataclasses

import numpy as np

from jaxrobust import config as config_lib
from jaxrobust.errors import FieldError, UserError
from jaxrobust.runs import Run, headline, strongest
from jaxrobust.studies import running
from jaxrobust.studies.design import Planned, Study

SEED, DATA = "seed", "data"  # names of axes, see studies/__init__.py


@dataclasses.dataclass(frozen=True)
class Observed:
    """One run that is done, scored on the test split at its last checkpoint.

    Weights are the averaged ones where the run keeps such. Accuracies are of the attack of the study, and clean.

    Attributes:
        natural: trained without attack.
        radius: that it was trained with, in pixel units; 0 for a natural one.
        classes: names, [C].
        count, correct, clean: test images of each class, and those that withstand and that are right without attack,
            integers [C].
        epochs: (epoch, correct [C], clean [C]) of every checkpoint that was scored, in order.
    """

    run: Planned
    natural: bool
    radius: float
    classes: tuple[str, ...]
    count: np.ndarray
    correct: np.ndarray
    clean: np.ndarray
    epochs: tuple[tuple[int, np.ndarray, np.ndarray], ...]

    @property
    def setting(self) -> tuple[tuple[str, str], ...]:
        """Its levels on all axes but the seed's."""
        return tuple((axis, level) for axis, level in self.run.levels.items() if axis != SEED)

    @property
    def accuracy(self) -> np.ndarray:
        """[C], under the attack."""
        return self.correct / self.count

    @property
    def clean_accuracy(self) -> np.ndarray:
        """[C]."""
        return self.clean / self.count


def observe(study: Study, planned: list[Planned], workdir) -> tuple[list[Observed], str]:
    """The runs that are done, in the study's order, and the attack under which they are compared.

    Raises:
        UserError: none is done, they share no attack, or runs of one data set have not the same classes.
    """
    opened = []
    for run in planned:
        if running.status(workdir, run).state == "done":
            opened.append((run, Run(running.folder(workdir, run), "test")))
    if not opened:
        raise UserError(f"workdir = {str(workdir)!r}: none of the {len(planned)} runs is done; train them first")
    attack = _attack(study, [_last(run) for _, run in opened])
    found = [_observed(planned, run, attack) for planned, run in opened]
    _check_classes(found)
    return found, attack


def by_data(observed: list[Observed]) -> dict[str, list[Observed]]:
    """The runs by their level on the axis `data`; all of them under "" where there is no such axis."""
    groups: dict[str, list[Observed]] = {}
    for run in observed:
        groups.setdefault(run.run.levels.get(DATA, ""), []).append(run)
    return groups


def by_setting(observed: list[Observed]) -> dict[tuple, list[Observed]]:
    """The seeds of each setting."""
    groups: dict[tuple, list[Observed]] = {}
    for run in observed:
        groups.setdefault(run.setting, []).append(run)
    return groups


def matched(observed: list[Observed], *axes: str) -> dict[tuple, list[Observed]]:
    """Runs that agree on all axes but these, by the levels on the others."""
    groups: dict[tuple, list[Observed]] = {}
    for run in observed:
        key = tuple((other, level) for other, level in run.run.levels.items() if other not in axes)
        groups.setdefault(key, []).append(run)
    return groups


def _attack(study: Study, scores: list[dict]) -> str:
    common = [name for name in headline(scores[0]) if all(name in of for of in scores)]
    if study.attack:
        if study.attack not in common:
            raise FieldError("attack", study.attack, "is not what all runs were scored under", f"choose of {common}")
        return study.attack
    attacked = [name for name in common if name != "clean"]
    if not attacked or "clean" not in common:
        raise UserError("the runs share no attack, or were not scored without one; give them the same eval.attacks")
    return strongest({name: scores[0][name] for name in attacked})


def _last(run: Run) -> dict:
    checkpoint = max(run.scores, key=lambda c: (c.step, c.weights == "averaged"))
    return run.scores[checkpoint]


def _observed(planned: Planned, run: Run, attack: str) -> Observed:
    config = planned.config
    natural = config.objective.name == "standard"
    weights = max(run.scores, key=lambda c: (c.step, c.weights == "averaged")).weights
    epochs = []
    for checkpoint, scores in run.scores.items():
        if checkpoint.weights == weights and attack in scores and "clean" in scores:
            record, clean = scores[attack].record, scores["clean"].record
            epochs.append((record["epoch"], np.array(record["correct"]), np.array(clean["correct"])))
    last = _last(run)[attack].record
    return Observed(
        run=planned,
        natural=natural,
        radius=0.0 if natural else config_lib.attack_radius(config, "attack"),
        classes=tuple(last["classes"]),
        count=np.array(last["count"]),
        correct=epochs[-1][1],
        clean=epochs[-1][2],
        epochs=tuple(epochs),
    )


def _check_classes(observed: list[Observed]) -> None:
    for data, runs in by_data(observed).items():
        for run in runs[1:]:
            if run.classes != runs[0].classes:
                where = f"{runs[0].run.name} and {run.run.name}" + (f" (data {data})" if data else "")
                raise UserError(f"{where} have not the same classes; put data sets on an axis called data")
