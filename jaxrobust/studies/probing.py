"""Measure the probes of `explanations` on the runs of a study. The results are in the folder of each run.

RUN/probes.json     the inputs, the values of the probes by class, and why other probes could not be measured

Only adversarially trained runs are probed, since their robustness is to be explained. Some probes use features of the
corresponding run trained without attack, so a run is probed after this counterpart is trained.
"""

from typing import Any, NamedTuple, TypedDict

import jax

from jaxrobust import console, files
from jaxrobust.errors import UserError
from jaxrobust.explanations import measuring
from jaxrobust.explanations.inputs import Inputs, open_model
from jaxrobust.runs import results, schemas
from jaxrobust.runs.reading import RunFiles
from jaxrobust.studies import running
from jaxrobust.studies.design import Planned, Study
from jaxrobust.studies.observed import OBJECTIVE, RADIUS, Observed, observe, ordinary


class Looked(TypedDict):
    """Which images the probes use."""

    training_images: schemas.Count
    test_images: schemas.Count
    test_is_scored: bool


class Probed(TypedDict):
    """The content of probes.json: see `read`."""

    of: dict[str, Any]
    classes: list[str]
    images: Looked
    values: dict[str, list[float | None]]
    left_out: dict[str, str]


def _problem(content: Probed) -> str | None:
    """A probe of another number of classes; None if there is none."""
    wrong = [name for name, values in content["values"].items() if len(values) != len(content["classes"])]
    return f"{wrong[0]} is not of {len(content['classes'])} classes" if wrong else None


PROBES = results.JsonFile("probes.json", Probed, _problem)  # in a run's folder
_REASONS = {
    "give --standard RUN": "the study has no run that is trained without attack and otherwise alike",
    "give --other RUN": "a study passes no images to other models",
}


class Task(NamedTuple):
    """A run to be probed."""

    run: Observed
    attack: str  # the attack under which robustness is measured
    examples: int
    standard: Planned | None  # the run trained without attack that otherwise has the same levels, if it is done
    waits: bool  # whether the training of that run is not finished yet

    @property
    def name(self) -> str:
        return self.run.run.name

    @property
    def looked_at(self) -> dict:
        """The inputs, besides the run's config, on which the values of the probes depend."""
        standard = self.standard and self.standard.name
        return {**self.run.checkpoint._asdict(), "attack": self.attack, "examples": self.examples, "standard": standard}


def tasks(study: Study, planned: list[Planned], states: dict, observed: list[Observed], attack: str) -> list[Task]:
    """A task for every finished, adversarially trained run without intervention, whether it is already probed or not;
    from the results of running.statuses and observed.observe.
    """

    def rest(run: Planned) -> tuple:  # natural training does not depend on the training radius
        return tuple(item for item in run.levels.items() if item[0] not in (OBJECTIVE, RADIUS))

    counterparts = {}
    for run in planned:
        if run.config.objective.name == "standard" and rest(run) not in counterparts:
            counterparts[rest(run)] = run, states[run.name].state
    found = []
    for run in ordinary(study, observed):
        if not run.natural:
            other, state = counterparts.get(rest(run.run), (None, ""))
            standard, waits = other if state == "done" else None, state in ("waiting", "begun")
            found.append(Task(run, attack, study.probe_examples, standard, waits))
    return found


def read(workdir, of: list[Task]) -> dict[str, dict]:
    """Contents of probes.json, by the name of the run.

    Runs without this file, or whose file was measured with other inputs, are left out. Keys are `of`, the inputs (see
    Task.looked_at); `classes`, names [C]; `images`, see measuring.images; `values`, {probe: [C]}, null for a class
    without a value; and `left_out`, {probe: why it could not be measured}.
    """
    found = {}
    for task in of:
        try:
            content = PROBES.read(running.folder(workdir, task.run.run))
        except UserError:  # damaged: measured again
            continue
        if content and content["of"] == task.looked_at and {*task.run.classes} <= {*content["classes"]}:
            found[task.name] = content
    return found


def lacking(study: Study, planned: list[Planned], workdir) -> list[Task]:
    """The tasks of finished runs that are not probed yet."""
    states = running.statuses(workdir, planned)
    done = [run for run in planned if states[run.name].state == "done"]
    if not (study.probes and done):
        return []
    of = tasks(study, planned, states, *observe(study, done, workdir))
    there = read(workdir, of)
    return [task for task in of if task.name not in there]


def measure_all(study: Study, planned: list[Planned], workdir, part: list[Planned] | None = None) -> list[str]:
    """Probe every finished, adversarially trained run that is not probed yet; does nothing if `study.probes` is False.

    Args:
        planned: all runs of the study.
        part: the runs to probe, while other processes train the rest: a run whose counterpart is not trained yet is
            left to a later call. By default all runs, with the counterparts that are available.

    Returns:
        The names of the runs that could not be probed; the next call tries them again.
    """
    todo = lacking(study, planned, workdir)
    if part is not None:
        names = {run.name for run in part}
        todo = [task for task in todo if task.name in names and not task.waits]
    known, failed = {}, []
    for position, task in enumerate(todo, start=1):
        console.say(f"probes of run {position} of {len(todo)}: {task.name}")
        if error := _try(task, workdir, known):
            console.warn(f"run {task.name} could not be probed: {error}")
            failed.append(task.name)
        jax.clear_caches()  # most programs are used by one run only; shared ones are in the cache on disk
    return failed


def _try(task: Task, workdir, known: dict) -> str:
    """Probe one run; returns the error message, "" on success."""
    where = running.folder(workdir, task.run.run)
    try:
        others = {}
        if task.standard:
            folder = running.folder(workdir, task.standard)
            step, weights = RunFiles(folder, "test").last_checkpoint()
            others["standard"] = open_model(folder, {}, step=step, weights=weights)
        inputs = Inputs(RunFiles(where, "test"), task.run.checkpoint, task.attack, {}, task.examples, others)
        (values, left_out), images = measuring.measure(inputs, known), measuring.images(inputs)
    except UserError as error:
        return str(error)
    except Exception as error:  # a bug, or out of memory: the other runs must go on
        console.bug()
        return f"{type(error).__name__}: {error}"
    content = {
        "of": task.looked_at,
        "classes": list(inputs.class_names),
        "images": images,
        "values": files.nullable({name: value.tolist() for name, value in values.items()}),
        "left_out": {name: _REASONS.get(reason, reason) for name, reason in left_out.items()},
    }
    PROBES.write(where, content)
    return ""
