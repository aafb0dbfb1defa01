"""Checkpoints of the train state, written atomically by orbax in the background.

A checkpoint is a folder `checkpoints/<step>`. Orbax renames it into place once it is complete, so a folder of that name
is complete unless it was damaged later. To detect damage, each checkpoint holds a checksum of its arrays, which
`restore` compares. `restore_weights` reads and compares the weights alone, for which no optimizer need be known.

Every process holds the whole state. Process 0 alone writes it, and each process reads it by itself. So no process waits
for another one that has ended, and a run can continue with any number of processes and devices. All processes agree on
which checkpoints exist and can be read, so they must call everything except `save` and `wait` together.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrobust import console, files
from jaxrobust.distributed import hosts, parallel
from jaxrobust.errors import FieldError, UserError, listed, one_of
from jaxrobust.models.weights import Weights
from jaxrobust.runs import history, results
from jaxrobust.runs.history import CHECKPOINTS as FOLDER

DAMAGED = "damaged_checkpoints"


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or whose arrays differ from those that were saved."""


class UnlikeCheckpoint(DamagedCheckpoint):
    """A checkpoint of another model."""


@dataclasses.dataclass
class _Preserve:
    """Orbax preservation policy: keep the steps that `choose(steps)` returns, and always the newest."""

    choose: Callable

    def should_preserve(self, checkpoints, *, context):
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*self.choose(steps), *steps[-1:]}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of a workdir. `preserve`, called at every save: ascending steps of all -> those to keep.
    `read_only`: for a process that only reads while another one trains.
    """

    def __init__(self, workdir, *, preserve: Callable = lambda steps: steps, read_only: bool = False):
        check_path(workdir)
        self._workdir = pathlib.Path(workdir).absolute()
        self._folder = self._workdir / FOLDER
        self._read_only = read_only or not parallel.is_writer()
        read_only, process = self._read_only, jax.process_index()
        if not read_only:
            with files.writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
        self._alone = ocp.options.MultiprocessingOptions(
            primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
        )
        self._options = ocp.CheckpointManagerOptions(
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            create=False,
            cleanup_tmp_directories=not read_only,
            multiprocessing_options=self._alone,
            preservation_policy=None if read_only else _Preserve(preserve),
        )
        self._manager = self._open()

    def _open(self):
        # A reader may start before the first checkpoint exists.
        if self._read_only and not self._folder.is_dir():
            return None
        return ocp.CheckpointManager(self._folder, options=self._options)

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints that are on disk now, ascending."""
        return hosts.decide(self._steps)

    def _steps(self):
        if not self._is_open():
            return []
        if self._read_only:
            self._manager.reload()
        return sorted(self._manager.all_steps())

    def _is_open(self) -> bool:
        if self._manager is None:
            self._manager = self._open()
        return self._manager is not None

    def save(self, step: int, state) -> None:
        """Start saving in the background; does nothing if the step exists. The state may then be changed.

        Raises:
            NotWritten: this checkpoint, or the one before, cannot be written.
        """
        if self._read_only or step in self._manager.all_steps():
            return
        # Copied because orbax writes later, when the devices may have reused the memory.
        state = jax.tree.map(np.array, state)
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    checksum=ocp.args.JsonSave({"crc32": checksum(state), **checksums_of_weights(state)}),
                ),
            )

    def wait(self) -> None:
        """Wait until all checkpoints that were started are complete. Raises NotWritten if one cannot be written."""
        if not self._read_only:
            with self._writing():
                self._manager.wait_until_finished()

    def check_readable(self, step: int, like) -> None:
        """Read what was saved at `step` as `like`, when it is complete. Raises FieldError if that is not possible."""
        self.wait()
        arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        try:
            hosts.decide(lambda: self._read_alone(step, arrays, self._read_state) and None)
        except UserError as error:
            remedy = "give another folder, on storage that can be trusted"
            problem = f"what is saved there cannot be read again: {error}"
            raise FieldError("workdir", str(self._workdir), problem, remedy) from error

    @contextlib.contextmanager
    def _writing(self):
        """Raise whatever orbax and tensorstore raise where they cannot write as NotWritten."""
        try:
            yield
        except Exception as error:
            said = f"{error} {error.__cause__ or ''}"
            known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
            number = next((number for number in known if os.strerror(number) in said), errno.EIO)
            reason = os.strerror(number) if number != errno.EIO else _in_one_line(error)
            raise files.NotWritten(number, reason, str(self._folder)) from error

    def restore(self, step: int, like):
        """The state saved at `step`, with the structure, shapes and devices of `like`.

        Raises:
            DamagedCheckpoint: process 0 cannot read it, or its checksum differs.
            UserError: process 0 can read it and another process cannot, even after the time that a network file system
                may need to show new files.
        """
        return self._read(step, like, self._read_state)

    def restore_weights(self, step: int, like: Weights, name: str) -> Weights:
        """The weights, "raw" or "averaged", saved at `step`, with the shapes and devices of `like`. Raises as
        `restore`, and UnlikeCheckpoint if they are of another model.
        """

        def read(step, like):
            field = "averaged" if name == "averaged" else "weights"
            return self._read_weights(self._folder / str(step), like, field)

        return self._read(step, like, read)

    def _read(self, step, like, read):
        """What `read(step, arrays like those to be read)` gives, if all processes can read it."""
        arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        until = time.monotonic() + hosts.SHARED_SECONDS
        while True:
            found, problem, kind = None, None, DamagedCheckpoint
            try:
                found = self._read_alone(step, arrays, read)
            except DamagedCheckpoint as error:
                problem, kind = str(error), type(error)
            problems = hosts.gather(problem)
            if problems[0]:
                raise kind(problems[0])
            if not any(problems):
                return parallel.replicate_like(found, like)
            if hosts.decide(lambda: time.monotonic() > until):
                process, problem = next((process, problem) for process, problem in enumerate(problems) if problem)
                raise UserError(
                    f"{problem}, by {hosts.describe(process)}, while process 0 has read it; "
                    "put the workdir on storage that all hosts share"
                )
            time.sleep(1)

    def _read_alone(self, step, arrays, read):
        """What `read(step, arrays)` gives on this process. Raises DamagedCheckpoint."""
        title = f"checkpoint {self._folder / str(step)}"
        try:
            if not self._is_open():
                raise FileNotFoundError(f"{self._folder} is not there")
            return read(step, arrays)
        except _Differs as error:
            raise DamagedCheckpoint(f"{title} is damaged: its checksum differs") from error
        except _Unlike as error:
            raise UnlikeCheckpoint(f"{title} is of another model: {error}") from error
        except Exception as error:  # orbax and tensorstore raise many types for truncated, missing or altered files
            raise DamagedCheckpoint(f"{title} cannot be read: {_in_one_line(error)}") from error

    def _read_state(self, step, arrays):
        saved = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(arrays), checksum=ocp.args.JsonRestore())
        )
        if checksum(saved.state) != saved.checksum["crc32"]:
            raise _Differs
        return saved.state

    def _read_weights(self, folder, arrays, field):
        expected = json.loads((folder / "checksum" / "metadata").read_text())
        # As a dict, since the class is not known to the files.
        wanted = {field: {"params": arrays.params, "batch_stats": arrays.batch_stats}}
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=self._alone)
        with ocp.Checkpointer(handler, multiprocessing_options=self._alone) as reader:
            _check_alike(handler.metadata(folder / "state").tree.get(field), wanted[field])
            if field in expected:
                saved = reader.restore(folder / "state", args=ocp.args.PyTreeRestore(wanted, partial_restore=True))
                is_same = checksum(Weights(**saved[field])) == expected[field]
            else:  # of an earlier version, which kept the checksum of the whole state alone
                saved = reader.restore(folder / "state")
                is_same = checksum(_in_order_of_saving(folder / "state", saved)) == expected["crc32"]
        if not is_same:
            raise _Differs
        return Weights(**saved[field])

    def restore_latest(self, like):
        """The newest checkpoint that can be restored; None if there is none at all. Newer ones are reported and moved
        to another folder, so that their steps can be saved again; where none can be restored, which is hardly damage,
        UserError is raised and nothing is moved.
        """
        damaged = {}
        for step in reversed(self.steps()):
            try:
                state = self.restore(step, like)
            except DamagedCheckpoint as error:
                damaged[step] = error
                continue
            for bad_step, error in damaged.items():
                if parallel.is_writer():
                    console.warn(f"{error}; falling back to step {step}")
                    self._set_aside(bad_step)
            return state
        if damaged:
            problem = f"none of its {len(damaged)} checkpoints can be restored ({next(iter(damaged.values()))})"
            remedy = "restore the files, or give another folder to train anew"
            raise FieldError("workdir", str(self._workdir), problem, remedy)
        return None

    def _set_aside(self, step: int) -> None:
        """Move a checkpoint to the folder of damaged ones."""
        target = self._workdir / DAMAGED / str(step)
        count = 0
        with files.writing(target):
            target.parent.mkdir(exist_ok=True)
            while target.exists():
                count += 1
                target = target.with_name(f"{step}.{count}")
            (self._folder / str(step)).rename(target)
        self._manager.close()
        self._manager = self._open()

    def close(self) -> None:
        """Complete all saves that were started, and close. Raises NotWritten if one cannot be written."""
        if self._manager is None:
            return
        try:
            with self._writing():
                self._manager.close()
        finally:
            if not self._read_only:
                history.remove_parts(self._workdir)


def _in_one_line(error: Exception) -> str:
    """The beginning of a long message of orbax."""
    return " ".join(str(error).split("See full TensorStore details")[0].split())[:200]


def checksum(state) -> int:
    """CRC-32 over the bytes of all arrays, in tree order."""
    crc = 0
    for leaf in jax.tree.leaves(jax.device_get(state)):
        crc = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8), crc)
    return crc


class _Differs(Exception):
    """The checksum of what was read is not the one that was saved."""


class _Unlike(Exception):
    """The first array that differs in name, shape or type from that of the model."""


def checksums_of_weights(state) -> dict:
    """Those of the parts of a train state that hold weights, by field."""
    parts = {"weights": getattr(state, "weights", None), "averaged": getattr(state, "averaged", None)}
    return {field: checksum(part) for field, part in parts.items() if part is not None}


def _in_order_of_saving(folder: pathlib.Path, saved) -> list:
    """The arrays of a state that was read without its classes, in the order of the state's own fields."""
    arrays = []
    for entry in json.loads((folder / "_METADATA").read_text())["tree_metadata"].values():
        if entry["value_metadata"]["skip_deserialize"]:  # None, or an empty dict
            continue
        found = saved
        for key in entry["key_metadata"]:
            found = found[int(key["key"]) if isinstance(found, list) else key["key"]]
        arrays.append(found)
    return arrays


def _check_alike(saved, wanted) -> None:
    """Raises _Unlike unless the trees have the same names, shapes and types."""
    is_leaf = lambda node: hasattr(node, "shape")  # noqa: E731
    one, other = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"
            for path, leaf in jax.tree.leaves_with_path(tree, is_leaf=is_leaf)
        }
        for tree in (saved, wanted)
    )
    if one != other:
        name = next(name for name in sorted(one | other) if one.get(name) != other.get(name))
        raise _Unlike(f"{name} is {one.get(name, 'not')} there, and {other.get(name, 'not')} in the given one")


def check_path(workdir, argument: str = "workdir") -> None:
    """Raises FieldError, which names the `argument`, for a path under which no checkpoint could be read again."""
    path = str(pathlib.Path(workdir).absolute())
    # TensorStore takes "[...]" for a pattern and "\\" for an escape, and epath "...:/" for the scheme of a URL.
    wrong = [name for name in ("[", "]", "\\", ":/") if name in f"{path}/"]
    if not path.isprintable():
        wrong.append("characters that cannot be printed")
    if wrong:
        problem = f"checkpoints cannot be kept under {path!r}, for {wrong[0]} in it"
        raise FieldError(argument, str(workdir), problem, "give a folder, or rename it, without")


def check_free(workdir, argument: str = "workdir") -> None:
    """Raises FieldError, which names the `argument`, if there is a run in the folder, or there can be none."""
    check_path(workdir, argument)
    if history.read_config(workdir) is not None:
        raise FieldError(argument, str(workdir), "holds a run already", "give another")


def write_run(workdir, config: dict, step: int, state, origin: dict, argument: str = "workdir") -> None:
    """Make the folder a run with one checkpoint, with config.json and weights.json of this content.

    Raises FieldError, which names the `argument`, if it cannot be made.
    """
    try:
        pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FieldError(argument, str(workdir), f"cannot be made ({error.strerror})", "give another") from error
    try:
        with files.locked(pathlib.Path(workdir) / history.UNFINISHED):
            with contextlib.closing(Checkpoints(workdir)) as checkpoints:
                checkpoints.save(step, state)
                checkpoints.check_readable(step, state)
            results.ORIGIN.write(workdir, origin)
            results.CONFIG.write(workdir, config)  # last, for where it is there is a run
    finally:
        history.remove_unfinished(pathlib.Path(workdir))


class Chosen(NamedTuple):
    """A checkpoint and which of its weights, "raw" or "averaged"."""

    step: int
    weights: str


def read_best(workdir, steps: list[int] | None) -> dict | None:
    """The content of best.json, see results.find_best; None where no checkpoint has been chosen.

    Args:
        steps: of the available checkpoints; None: whether it is there is of no matter.

    Raises:
        FieldError: the checkpoint that it names is not there, or is another one.
    """
    best = hosts.decide(lambda: results.BEST.read(workdir))
    if best is None or steps is None:
        return best
    step, weights = best["step"], best["weights"]
    there = hosts.decide(lambda: history.checksums(workdir, step))
    if step not in steps or not results.belongs(best.get("checksum"), there.get(weights)):
        problem = f"its best checkpoint by {results.BEST}, the {weights} weights of step {step}, is not there"
        remedy = f"put it back, name another step, or remove {results.BEST}: then it is the last"
        raise FieldError("workdir", str(workdir), problem, remedy)
    return best


def choose(workdir, steps: list[int], *, averaged: bool, step: int | None = None, weights: str | None = None) -> Chosen:
    """The checkpoint and the weights to use: those asked for, else the best by validation score, else the last, which
    is said where there are several.

    Args:
        steps: of the available checkpoints, ascending.
        averaged: whether the run has averaged weights.
        step: the requested one; None: the best, or the last if none was chosen.
        weights: the requested ones, "raw" or "averaged"; None: those of the best checkpoint if it is that one, else
            averaged where there are any.

    Raises:
        UserError: there is no checkpoint, or not the requested one or the best, or no averaged weights.
    """
    if weights is not None:
        one_of("weights", weights, ("raw", "averaged"))
    if not steps:
        remedy = "train longer, or give another run"
        raise FieldError("workdir", str(workdir), "holds no complete checkpoint", remedy)
    if step is not None and step not in steps:
        raise FieldError("step", step, "is no checkpoint of the run", listed(steps))
    best = read_best(workdir, steps if step is None else None)
    if step is None:
        step = best["step"] if best else steps[-1]
        if best is None and len(steps) > 1 and parallel.is_writer():
            console.say(f"{workdir} has no {results.BEST}, by which the best of {len(steps)} is known: taking the last")
    if weights is None and best and best["step"] == step:
        weights = best["weights"]
    if weights == "averaged" and not averaged:
        raise FieldError("weights", weights, "the run has none (train.average_decay = 0)", "give raw")
    return Chosen(step, weights or ("averaged" if averaged else "raw"))
