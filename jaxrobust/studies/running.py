"""The runs of a study as folders of a workdir: their state, their cost, and their execution.

WORKDIR/runs/NAME     an ordinary run: it can be resumed, compared and evaluated like any other
"""

import contextlib
import dataclasses
import pathlib
import random
import statistics
from collections.abc import Callable
from typing import TypedDict

import jax

from jaxrobust import config as config_lib, console, files
from jaxrobust.config import objects, validation
from jaxrobust.data import batches
from jaxrobust.distributed import parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import loading
from jaxrobust.performance.compiled import costs
from jaxrobust.runs import history, results
from jaxrobust.studies.design import Planned
from jaxrobust.training import loop

RUNS = "runs"
# In a run's folder: why its last attempt failed.
FAILED = results.JsonFile("failed.json", TypedDict("Failed", {"error": str}))


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a run."""

    state: str  # waiting | begun | failed | done; also failed if the folder contains a run with another config
    error: str = ""  # error message of a failed run
    seconds: float = 0.0  # duration of its training and evaluations so far


def folder(workdir, run: Planned) -> pathlib.Path:
    """The workdir of a run of a study."""
    return pathlib.Path(workdir) / RUNS / run.name


def status(workdir, run: Planned) -> Status:
    """The state of a run, from its files; failed if one of them is damaged."""
    try:
        return _status(workdir, run)
    except (UserError, OSError) as error:  # the message names the file; the other runs are not affected
        return Status("failed", str(error))


def _status(workdir, run: Planned) -> Status:
    where = folder(workdir, run)
    stored = history.read_config(where)
    if stored is None:
        failed = FAILED.read(where)
        return Status("failed", failed["error"]) if failed else Status("waiting")
    try:
        loading.check_same_config(where, run.config, stored, loop.MAY_DIFFER)
    except UserError as error:  # from an earlier version of the study: these are results of another config
        return Status("failed", str(error))
    training = results.read_training(where)
    records = results.read(where)
    seconds = sum(record["seconds"] for record in records if not results.is_member(record["attack"]))
    timed = [line for line in training if line.get("images_per_second")]
    seconds += sum(sum(line.get("train_class_count", ())) / line["images_per_second"] for line in timed)
    last = training[-1].get("step") if training and training[-1]["epoch"] == run.config.train.epochs else None
    if last is not None and _is_scored(run.config, records, last, results.BEST.read(where)):
        return Status("done", seconds=seconds)
    failed = FAILED.read(where)
    return Status("failed", failed["error"], seconds) if failed else Status("begun", seconds=seconds)


def _is_scored(config, records: list[dict], last: int, best: dict | None) -> bool:
    """Whether the evaluation is complete: all weights of the last checkpoint are scored, and the best is selected."""
    weights = ("raw", "averaged") if config.train.average_decay > 0 else ("raw",)
    scored = {(record["weights"], record["split"], record["attack"]) for record in records if record["step"] == last}
    wanted = {(name, "test", attack) for name in weights for attack in config.eval.attacks}
    criterion = {"attack": config_lib.best_attack(config), "criterion": config.checkpoint.best}
    return wanted <= scored and best == results.find_best(records, **criterion)


def statuses(workdir, planned: list[Planned]) -> dict[str, Status]:
    """The state of each run, by name."""
    return {run.name: status(workdir, run) for run in planned}


def check(planned: list[Planned], device_count: int) -> None:
    """Check every config, before any run is trained; a UserError names the run and the field."""
    for run in planned:
        try:
            validation.validate(run.config, device_count)
        except UserError as error:
            raise UserError(f"run {run.name}: {error}") from error


def part(planned: list[Planned], shard: str) -> list[Planned]:
    """The runs of part i of n, given as "i/n" with i from 1, in the order of `planned`.

    Runs are assigned to parts by a fixed shuffle, then every n-th. Parts are therefore of similar size and similar
    content even if the levels of an axis alternate in `planned`.

    Raises:
        FieldError: `shard` is not of this form.
    """
    try:
        i, n = map(int, shard.split("/"))
    except ValueError:
        i = n = 0
    if not 1 <= i <= n:
        raise FieldError("shard", shard, "is not a part", "write i/n with i from 1 to n, for example 2/4")
    shuffled = list(range(len(planned)))
    random.Random(0).shuffle(shuffled)  # the same for every part
    return [planned[position] for position in sorted(shuffled[i - 1 :: n])]


def run_all(planned: list[Planned], workdir, finish: Callable[[pathlib.Path], None] | None = None) -> list[str]:
    """Train and evaluate every run that is not done; started runs are resumed.

    A run that fails is reported and the others go on; the next call tries it again.

    Args:
        finish: called with the folder of each run that has been evaluated, for example to write its report.

    Returns:
        The names of the failed runs.

    Raises:
        Interrupted: by SIGTERM or Ctrl-C, after saving. The same call continues.
    """
    known = statuses(workdir, planned)
    todo = [run for run in planned if known[run.name].state != "done"]
    work = flops(todo) if todo else {}
    failed, spent, worked = [], 0.0, 0.0
    with StopRequest() as stop:
        for position, run in enumerate(todo, start=1):
            if stop:  # requested when the previous run had already ended
                raise Interrupted(stop.signal_number, f"stopped before run {position}; the same command continues")
            left = sum(work[later.name] for later in todo[position - 1 :])
            expected = f", about {console.duration(left * spent / worked)} left" if worked else ""
            console.say(f"run {position} of {len(todo)}: {run.name}{expected}")
            before = known[run.name].seconds
            if error := attempt(run, folder(workdir, run), finish):
                console.warn(f"run {run.name} failed: {error}")
                failed.append(run.name)
            else:
                spent += status(workdir, run).seconds - before
                worked += work[run.name]
            jax.clear_caches()  # most programs are used by one run only; shared ones are in the cache on disk
    return failed


def attempt(run: Planned, where: pathlib.Path, finish: Callable[[pathlib.Path], None] | None = None) -> str:
    """Train and evaluate in the folder `where`; the error message, "" on success. `Interrupted` if so, after saving."""
    try:
        where.mkdir(parents=True, exist_ok=True)
        loop.train_and_evaluate(run.config, where)
        if finish:
            finish(where)
    except Interrupted:
        raise
    except loop.InUse as error:  # another training is using the folder, so nothing is written there
        return str(error)
    except (UserError, loop.Diverged) as error:
        message = str(error)
    except Exception as error:  # a bug, a full disk or out of memory: the other runs must go on
        console.bug()
        message = f"{type(error).__name__}: {error}"
    else:
        (where / FAILED).unlink(missing_ok=True)
        return ""
    return record_failure(where, message)


def record_failure(where: pathlib.Path, message: str) -> str:
    """Write the error message of the last attempt to a run's folder, if possible; returns the message."""
    with contextlib.suppress(OSError):
        FAILED.write(where, {"error": message})
    return message


def flops(planned: list[Planned]) -> dict[str, float]:
    """The minimum arithmetic of each run's training, in FLOP, by name; evaluations are not counted."""
    mesh, found, known = parallel.make_mesh(), {}, {}
    for run in planned:
        config = run.config
        # Many runs have the same data and model settings: these are described and counted once.
        data_key = files.to_json(config.data.to_dict())
        if data_key not in known:
            known[data_key] = objects.description(config)
        description = known[data_key]
        model_key = data_key + files.to_json(config.model.to_dict())
        if model_key not in known:
            known[model_key] = costs.forward_flops(config, description, mesh)
        steps = batches.steps_per_epoch(description.train_examples, config.train.batch_size) * config.train.epochs
        found[run.name] = known[model_key] * costs.floor_passes(config) * steps * config.train.batch_size
    return found


def estimates(work: dict[str, float], states: dict[str, Status]) -> dict[str, float | None]:
    """Seconds that each run takes, by name, from the results of `flops` and `statuses`: measured if it is done, else
    its arithmetic at the median rate of the done; None if no run is done.
    """
    seconds = {name: states[name].seconds for name in work if states[name].state == "done"}
    rates = [work[name] / took for name, took in seconds.items() if took > 0]
    rate = statistics.median(rates) if rates else None
    return {name: seconds.get(name, rate and work[name] / rate) for name in work}
