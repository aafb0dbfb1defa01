"""The results of the finished runs of a study, as arrays, read once from the files of the runs."""

import dataclasses

import numpy as np

from jaxrobust import config as config_lib, console
from jaxrobust.errors import UserError
from jaxrobust.runs.reading import Checkpoint, RunFiles, strongest
from jaxrobust.studies import running
from jaxrobust.studies.design import Planned, Study

# Names of axes, see studies/__init__.py.
SEED, DATA, OBJECTIVE, RADIUS, INTERVENTION = "seed", "data", "objective", "radius", "intervention"


@dataclasses.dataclass(frozen=True)
class Observed:
    """A finished run, scored on the test split at its last checkpoint.

    The weights are the averaged ones if the run keeps them. Accuracies are given under the attack of the study, and
    clean.
    """

    run: Planned
    natural: bool  # whether it was trained without attack
    radius: float  # radius of the training, in pixel units; 0 for natural training
    classes: tuple[str, ...]  # names of the classes with test images, [C]
    # count, correct, clean: integers [C]: test images of each class, those classified correctly under the attack, and
    # those classified correctly without attack.
    count: np.ndarray
    correct: np.ndarray
    clean: np.ndarray
    # (epoch, correct [C], clean [C]) of every checkpoint that was scored, in order.
    epochs: tuple[tuple[int, np.ndarray, np.ndarray], ...]
    checkpoint: Checkpoint | None = None  # the checkpoint that was scored
    # (index of each image in the split, its class, whether it is robust), [N] each; None if the file with them is
    # missing or does not fit the counts.
    images: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def accuracy(self) -> np.ndarray:
        """Accuracy [C] under the attack."""
        return self.correct / self.count


def observe(study: Study, done: list[Planned], workdir) -> tuple[list[Observed], str]:
    """Read the given runs, which must all be done, in their order. Also returns the attack used to compare them.
    UserError if runs on one data set do not have the same classes.
    """
    opened = [(run, RunFiles(running.folder(workdir, run), "test")) for run in done]
    attack = _attack(study, [run.scores[run.last_checkpoint()] for _, run in opened])
    found = [_observed(planned, run, attack) for planned, run in opened]
    _check_classes(found)
    return found, attack


def verdicts(runs: list[Observed]) -> tuple[np.ndarray, np.ndarray] | None:
    """Whether each image is robust in each run, int8 [R, N], -1 where a run was not judged on it; and its class, [N].

    None if a run lacks the file with them.
    """
    if any(run.images is None for run in runs):
        return None
    index = np.unique(np.concatenate([run.images[0] for run in runs]))
    labels, is_robust = np.empty(index.size, np.int64), np.full((len(runs), index.size), -1, np.int8)
    for row, run in zip(is_robust, runs, strict=True):
        place = np.searchsorted(index, run.images[0])
        row[place], labels[place] = run.images[2], run.images[1]
    return is_robust, labels


def by_data(observed: list[Observed]) -> dict[str, list[Observed]]:
    """The runs by their level on the axis `data`; all of them under "" if there is no such axis."""
    groups: dict[str, list[Observed]] = {}
    for run in observed:
        groups.setdefault(run.run.levels.get(DATA, ""), []).append(run)
    return groups


def ordinary(study: Study, observed: list[Observed]) -> list[Observed]:
    """The runs without intervention: those at the first level of that axis, or all runs if there is no such axis."""
    first = list(study.axes.get(INTERVENTION, ()))[:1]
    return [run for run in observed if run.run.levels.get(INTERVENTION) in (None, *first)]


def matched(observed: list[Observed], *axes: str) -> dict[tuple, list[Observed]]:
    """Groups of runs that have the same levels on all axes except `axes`, by these levels."""
    groups: dict[tuple, list[Observed]] = {}
    for run in observed:
        key = tuple((other, level) for other, level in run.run.levels.items() if other not in axes)
        groups.setdefault(key, []).append(run)
    return groups


def _attack(study: Study, scores: list[dict]) -> str:
    first = scores[0]
    return study.attack or strongest({name: first[name] for name in first if all(name in of for of in scores)})


def _observed(planned: Planned, run: RunFiles, attack: str) -> Observed:
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
        images=_images(run, last_one, attack, there),
    )


def _images(run: RunFiles, checkpoint: Checkpoint, attack: str, there):
    try:
        arrays = run.examples(checkpoint)
    except UserError as error:  # the counts are known, and the other runs are not affected
        console.warn(str(error))
        return None
    if not {"index", attack} <= set(arrays):
        return None
    return arrays["index"], (np.cumsum(there) - 1)[arrays["labels"]], arrays[attack]


def _check_classes(observed: list[Observed]) -> None:
    """Check that the runs on one data set, at one level of the intervention, have the same classes."""
    first: dict[tuple, Observed] = {}
    for run in observed:
        data, level = (run.run.levels.get(axis, "") for axis in (DATA, INTERVENTION))
        other = first.setdefault((data, level), run)
        if run.classes != other.classes:
            where = f"{other.run.name} and {run.run.name}" + (f" (data {data})" if data else "")
            raise UserError(f"{where} do not have the same classes; put data sets on an axis called data")
