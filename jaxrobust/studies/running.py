"""The runs of a study as folders of a workdir: which are done, what the others cost, and doing them.

WORKDIR/runs/NAME     an ordinary run: resumable, comparable, evaluated like any other
"""

import contextlib
import dataclasses
import pathlib
import random
import statistics
import traceback

import jax

from jaxrobust import build, console, files, parallel, results, train, validation, workdirs
from jaxrobust import config as config_lib
from jaxrobust.compiled import costs
from jaxrobust.data import batches
from jaxrobust.errors import FieldError, UserError
from jaxrobust.interruption import Interrupted, StopRequest
from jaxrobust.studies.design import Planned

RUNS = "runs"
FAILED = "failed.json"  # in a run's folder: why its last try ended


@dataclasses.dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        state: waiting | begun | failed | done; failed too where the folder holds a run of another config.
        error: of a failed one.
        seconds: that its training and evaluations took, so far.
    """

    state: str
    error: str = ""
    seconds: float = 0.0


def folder(workdir, run: Planned) -> pathlib.Path:
    """The workdir of a run of a study."""
    return pathlib.Path(workdir) / RUNS / run.name


def status(workdir, run: Planned) -> Status:
    """How far a run is, as its files tell; failed where one of them is damaged."""
    try:
        return _status(workdir, run)
    except (UserError, OSError) as error:  # it names the file; the other runs have nothing to do with it
        return Status("failed", str(error))


def _status(workdir, run: Planned) -> Status:
    where = folder(workdir, run)
    stored = files.read_json(where / "config.json")
    if stored is None:
        failed = files.read_json(where / FAILED)
        return Status("failed", failed["error"]) if failed else Status("waiting")
    try:
        workdirs.check_same_config(where, run.config, stored, train.MAY_DIFFER)
    except UserError as error:  # of an earlier version of the study: what it found is of another run
        return Status("failed", str(error))
    training = files.read_records(where / results.TRAINING)
    records = results.read(where)
    seconds = sum(record["seconds"] for record in records if not results.is_member(record["attack"]))
    per_epoch = [sum(line["train_class_count"]) / line["images_per_second"] for line in training]
    seconds += sum(per_epoch)
    last = training[-1]["step"] if training and training[-1]["epoch"] == run.config.train.epochs else None
    if last is not None and _is_scored(run.config, records, last, files.read_json(where / results.BEST)):
        return Status("done", seconds=seconds)
    failed = files.read_json(where / FAILED)
    return Status("failed", failed["error"], seconds) if failed else Status("begun", seconds=seconds)


def _is_scored(config, records: list[dict], last: int, best: dict | None) -> bool:
    """Whether the evaluation of the last checkpoint is over: all its weights, and the best one chosen."""
    weights = ("raw", "averaged") if config.train.average_decay > 0 else ("raw",)
    scored = {(record["weights"], record["split"], record["attack"]) for record in records if record["step"] == last}
    wanted = {(name, "test", attack) for name in weights for attack in config.eval.attacks}
    criterion = {"attack": config_lib.best_attack(config), "criterion": config.checkpoint.best}
    return wanted <= scored and best == results.find_best(records, **criterion)


def statuses(workdir, planned: list[Planned]) -> dict[str, Status]:
    """How far each run is, by name."""
    return {run.name: status(workdir, run) for run in planned}


def check(planned: list[Planned], device_count: int) -> None:
    """Every config, before any of them is trained.

    Raises:
        UserError: names the run and the field.
    """
    for run in planned:
        try:
            validation.validate(run.config, device_count)
        except UserError as error:
            raise UserError(f"run {run.name}: {error}") from error


def part(planned: list[Planned], shard: str) -> list[Planned]:
    """The runs of part i of n, "i/n", i from 1: every n-th of them shuffled, in their order.

    So parts are alike in size and, but for chance, in what they hold: the levels of an axis may alternate.

    Raises:
        FieldError: it is no such part.
    """
    try:
        i, n = map(int, shard.split("/"))
    except ValueError:
        i = n = 0
    if not 1 <= i <= n:
        raise FieldError("--shard", shard, "is no part", "write i/n with i from 1 to n, for example 2/4")
    shuffled = list(range(len(planned)))
    random.Random(0).shuffle(shuffled)  # the same for every part
    return [planned[position] for position in sorted(shuffled[i - 1 :: n])]


def run_all(planned: list[Planned], workdir) -> list[str]:
    """Train and evaluate every run that is not done; what was begun goes on where it was.

    A run that fails is reported and the others go on; the next call tries it again.

    Returns:
        The names of those that failed.

    Raises:
        Interrupted: by SIGTERM or Ctrl-C, after saving. The same call continues.
    """
    known = statuses(workdir, planned)
    todo = [run for run in planned if known[run.name].state != "done"]
    work = flops(todo) if todo else {}
    failed, spent, worked = [], 0.0, 0.0
    with StopRequest() as stop:
        for position, run in enumerate(todo, start=1):
            if stop:  # asked when the run before had nothing left to stop
                raise Interrupted(stop.signal_number, f"stopped before run {position}; the same command continues")
            left = sum(work[later.name] for later in todo[position - 1 :])
            expected = f", about {console.duration(left * spent / worked)} left" if worked else ""
            console.say(f"run {position} of {len(todo)}: {run.name}{expected}")
            before = known[run.name].seconds
            if error := attempt(run, folder(workdir, run)):
                console.warn(f"run {run.name} failed: {error}")
                failed.append(run.name)
            else:
                spent += status(workdir, run).seconds - before
                worked += work[run.name]
            jax.clear_caches()  # of programs that no other run has; those it has are on disk
    return failed


def attempt(run: Planned, where: pathlib.Path) -> str:
    """Train and evaluate in that folder; returns what went wrong, "" for nothing.

    Raises:
        Interrupted: after saving.
    """
    try:
        where.mkdir(parents=True, exist_ok=True)
        train.train_and_evaluate(run.config, where)
    except Interrupted:
        raise
    except train.InUse as error:  # its files are the other training's
        return str(error)
    except (UserError, train.Diverged) as error:
        message = str(error)
    except Exception as error:  # a defect, or a full disk or memory: it must not end the others
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
    else:
        (where / FAILED).unlink(missing_ok=True)
        return ""
    return record_failure(where, message)


def record_failure(where: pathlib.Path, message: str) -> str:
    """Keep in a run's folder, if that can be written to, why its last try ended; returns that."""
    with contextlib.suppress(OSError):
        files.write_atomically(where / FAILED, files.to_json({"error": message}))
    return message


def flops(planned: list[Planned]) -> dict[str, float]:
    """The least arithmetic of each run's training, by name; evaluations are not counted."""
    mesh, found, known = parallel.make_mesh(), {}, {}
    for run in planned:
        config = run.config
        # Most runs differ in what their data and models do not depend on.
        data_key = files.to_json(config.data.to_dict())
        if data_key not in known:
            known[data_key] = build.description(config)
        description = known[data_key]
        model_key = data_key + files.to_json(config.model.to_dict())
        if model_key not in known:
            known[model_key] = costs.forward_flops(config, description, mesh)
        steps = batches.steps_per_epoch(description.train_examples, config.train.batch_size) * config.train.epochs
        found[run.name] = known[model_key] * costs.floor_passes(config) * steps * config.train.batch_size
    return found


def estimates(work: dict[str, float], states: dict[str, Status]) -> dict[str, float | None]:
    """Seconds that each run takes, by name: as measured of done ones; by arithmetic, at their median rate, of others.

    None where none is done.

    Args:
        work: of `flops`.
        states: of `statuses`.
    """
    seconds = {name: states[name].seconds for name in work if states[name].state == "done"}
    rates = [work[name] / took for name, took in seconds.items() if took > 0]
    rate = statistics.median(rates) if rates else None
    return {name: seconds.get(name, rate and work[name] / rate) for name in work}
