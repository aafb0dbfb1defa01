"""What the runs of a study have found, as arrays: read once, from the files of the runs that are done."""

import dataclasses

import numpy as np

from jaxrobust import config as config_lib
from jaxrobust.errors import UserError
from jaxrobust.runs import Checkpoint, Run, strongest
from jaxrobust.studies import running
from jaxrobust.studies.design import Planned, Study

# Names of axes, see studies/__init__.py.
SEED, DATA, OBJECTIVE, RADIUS, INTERVENTION = "seed", "data", "objective", "radius", "intervention"


@dataclasses.dataclass(frozen=True)
class Observed:
    """One run that is done, scored on the test split at its last checkpoint.

    Weights are the averaged ones where the run keeps such. Accuracies are of the attack of the study, and clean.

    Attributes:
        natural: trained without attack.
        radius: that it was trained with, in pixel units; 0 for a natural one.
        classes: names of those with test images, [C].
        count, correct, clean: test images of each class, and those that withstand and that are right without attack,
            integers [C].
        epochs: (epoch, correct [C], clean [C]) of every checkpoint that was scored, in order.
        checkpoint: that is scored.
    """

    run: Planned
    natural: bool
    radius: float
    classes: tuple[str, ...]
    count: np.ndarray
    correct: np.ndarray
    clean: np.ndarray
    epochs: tuple[tuple[int, np.ndarray, np.ndarray], ...]
    checkpoint: Checkpoint | None = None

    @property
    def accuracy(self) -> np.ndarray:
        """[C], under the attack."""
        return self.correct / self.count


def observe(study: Study, done: list[Planned], workdir) -> tuple[list[Observed], str]:
    """The runs given, all of which are done, in their order, and the attack under which they are compared.

    Raises:
        UserError: runs of one data set have not the same classes.
    """
    opened = [(run, Run(running.folder(workdir, run), "test")) for run in done]
    attack = _attack(study, [run.scores[run.last_checkpoint()] for _, run in opened])
    found = [_observed(planned, run, attack) for planned, run in opened]
    _check_classes(found)
    return found, attack


def by_data(observed: list[Observed]) -> dict[str, list[Observed]]:
    """The runs by their level on the axis `data`; all of them under "" where there is no such axis."""
    groups: dict[str, list[Observed]] = {}
    for run in observed:
        groups.setdefault(run.run.levels.get(DATA, ""), []).append(run)
    return groups


def ordinary(study: Study, observed: list[Observed]) -> list[Observed]:
    """The runs without intervention: those at the first level of that axis, or all of a study without one."""
    first = list(study.axes.get(INTERVENTION, ()))[:1]
    return [run for run in observed if run.run.levels.get(INTERVENTION) in (None, *first)]


def matched(observed: list[Observed], *axes: str) -> dict[tuple, list[Observed]]:
    """Runs that agree on all axes but these, by the levels on the others."""
    groups: dict[tuple, list[Observed]] = {}
    for run in observed:
        key = tuple((other, level) for other, level in run.run.levels.items() if other not in axes)
        groups.setdefault(key, []).append(run)
    return groups


def _attack(study: Study, scores: list[dict]) -> str:
    first = scores[0]
    return study.attack or strongest({name: first[name] for name in first if all(name in of for of in scores)})


def _observed(planned: Planned, run: Run, attack: str) -> Observed:
    config = planned.config
    natural = config.objective.name == "standard"
    last_one, epochs = run.last_checkpoint(), []
    for checkpoint, scores in run.scores.items():
        if checkpoint.weights == last_one.weights and attack in scores and "clean" in scores:
            record, clean = scores[attack].record, scores["clean"].record
            epochs.append((record["epoch"], np.array(record["correct"]), np.array(clean["correct"])))
    last = run.scores[last_one][attack].record
    there = np.array(last["count"]) > 0
    return Observed(
        run=planned,
        natural=natural,
        radius=0.0 if natural else config_lib.attack_radius(config, "attack"),
        classes=tuple(name for name, some in zip(last["classes"], there, strict=True) if some),
        count=np.array(last["count"])[there],
        correct=epochs[-1][1][there],
        clean=epochs[-1][2][there],
        epochs=tuple((epoch, correct[there], clean[there]) for epoch, correct, clean in epochs),
        checkpoint=last_one,
    )


def _check_classes(observed: list[Observed]) -> None:
    """An intervention may change which classes there are; nothing else may."""
    first: dict[tuple, Observed] = {}
    for run in observed:
        data, level = (run.run.levels.get(axis, "") for axis in (DATA, INTERVENTION))
        other = first.setdefault((data, level), run)
        if run.classes != other.classes:
            where = f"{other.run.name} and {run.run.name}" + (f" (data {data})" if data else "")
            raise UserError(f"{where} have not the same classes; put data sets on an axis called data")
