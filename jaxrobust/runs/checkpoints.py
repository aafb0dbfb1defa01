"""Checkpoints of the train state, written atomically by orbax in the background.

A checkpoint is a folder `checkpoints/<step>`. Orbax renames it into place once it is complete, so a folder of that name
is complete unless it was damaged later. To detect damage, each checkpoint holds a checksum of its arrays, which
`restore` compares.

Every process holds the whole state. Process 0 alone writes it, and each process reads it by itself. So no process waits
for another one that has ended, and a run can continue with any number of processes and devices. All processes agree on
which checkpoints exist and can be read, so they must call everything except `save` and `wait` together.
"""

import dataclasses
import pathlib
import time
import zlib
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrobust import console
from jaxrobust.distributed import hosts, parallel
from jaxrobust.errors import UserError

FOLDER = "checkpoints"
DAMAGED = "damaged_checkpoints"


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or whose arrays differ from those that were saved."""


@dataclasses.dataclass
class _Preserve:
    """Orbax preservation policy: keep the steps that `choose(steps)` returns, and always the newest."""

    choose: Callable

    def should_preserve(self, checkpoints, *, context):
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*self.choose(steps), *steps[-1:]}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
        workdir: the run's folder.
        preserve: ascending steps of all checkpoints -> those to keep. Called at every save.
        read_only: for a process that only reads while another one trains.
    """

    def __init__(self, workdir, *, preserve: Callable = lambda steps: steps, read_only: bool = False):
        self._workdir = pathlib.Path(workdir).absolute()
        self._folder = self._workdir / FOLDER
        self._read_only = read_only or not parallel.is_writer()
        read_only, process = self._read_only, jax.process_index()
        if not read_only:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._options = ocp.CheckpointManagerOptions(
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            create=False,
            cleanup_tmp_directories=not read_only,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
            ),
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
        """Start saving in the background; does nothing if the step exists. The state may then be changed."""
        if self._read_only or step in self._manager.all_steps():
            return
        # Copied because orbax writes later, when the devices may have reused the memory.
        state = jax.tree.map(np.array, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), checksum=ocp.args.JsonSave({"crc32": checksum(state)})
            ),
        )

    def wait(self) -> None:
        """Wait until all checkpoints that were started are complete."""
        if not self._read_only:
            self._manager.wait_until_finished()

    def restore(self, step: int, like):
        """The state saved at `step`, with the structure, shapes and devices of `like`.

        Raises:
            DamagedCheckpoint: process 0 cannot read it, or its checksum differs.
            UserError: process 0 can read it and another process cannot, even after the time that a network file system
                may need to show new files.
        """
        title = f"checkpoint {self._folder / str(step)}"
        until = time.monotonic() + hosts.SHARED_SECONDS
        while True:
            state, problem = self._read(step, like)
            problems = hosts.gather(problem)
            if problems[0]:
                raise DamagedCheckpoint(f"{title} {problems[0]}")
            if not any(problems):
                return parallel.replicate_like(state, like)
            if hosts.decide(lambda: time.monotonic() > until):
                process, problem = next((process, problem) for process, problem in enumerate(problems) if problem)
                raise UserError(
                    f"{title} {problem} by {hosts.describe(process)}, while process 0 has read it; "
                    "put the workdir on storage that all hosts share"
                )
            time.sleep(1)

    def _read(self, step, like):
        """(arrays in the memory of this process, None), or (None, error message)."""
        arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        try:
            if not self._is_open():
                raise FileNotFoundError(f"{self._folder} is not there")
            saved = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(arrays), checksum=ocp.args.JsonRestore()),
            )
            if checksum(saved.state) != saved.checksum["crc32"]:
                return None, "is damaged: its checksum differs"
        except Exception as error:  # orbax and tensorstore raise many types for truncated, missing or altered files
            reason = " ".join(str(error).split("See full TensorStore details")[0].split())[:200]
            return None, f"cannot be read: {reason}"
        return saved.state, None

    def restore_latest(self, like):
        """The newest checkpoint that can be restored; None if there is no checkpoint at all.

        Newer ones that cannot be restored are reported and moved to another folder, so that their steps can be saved
        again.

        Raises:
            UserError: there are checkpoints and none can be restored. Damage to all is unlikely, so nothing is moved.
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
            raise UserError(
                f"workdir = {str(self._workdir)!r}: none of its {len(damaged)} checkpoints can be restored "
                f"({next(iter(damaged.values()))}); restore the files, or give another --workdir to train anew"
            )
        return None

    def _set_aside(self, step: int) -> None:
        """Move a checkpoint to the folder of damaged ones."""
        target = self._workdir / DAMAGED / str(step)
        target.parent.mkdir(exist_ok=True)
        count = 0
        while target.exists():
            count += 1
            target = target.with_name(f"{step}.{count}")
        (self._folder / str(step)).rename(target)
        self._manager.close()
        self._manager = self._open()

    def close(self) -> None:
        """Complete all saves that were started, and close."""
        if self._manager is not None:
            self._manager.close()


def checksum(state) -> int:
    """CRC-32 over the bytes of all arrays, in tree order."""
    crc = 0
    for leaf in jax.tree.leaves(jax.device_get(state)):
        crc = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8), crc)
    return crc
