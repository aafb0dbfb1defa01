"""Checkpoints of the train state: written by orbax in the background, whole or not at all.

A checkpoint is a folder `checkpoints/<step>`. Orbax renames it into place once it is complete, so a folder of that name
is whole unless a disk or a person damaged it later. Against that, each checkpoint holds a checksum of its arrays, which
`restore` compares.

Every process holds the whole state, so process 0 writes it alone, and each reads it by itself: nobody can be left
waiting for a process that is gone, and a run goes on with any number of processes and devices. What is there, and
whether it can be read, all processes agree on; they call everything but `save` and `wait` together.
"""

import dataclasses
import pathlib
import time
import zlib
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrobust import console, hosts, parallel
from jaxrobust.errors import UserError

FOLDER = "checkpoints"
DAMAGED = "damaged_checkpoints"


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or whose arrays are not those that were saved."""


@dataclasses.dataclass
class _Preserve:
    """Orbax preservation policy: what `choose(steps)` returns of all steps, and the newest in any case."""

    choose: Callable

    def should_preserve(self, checkpoints, *, context):
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*self.choose(steps), *steps[-1:]}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
        workdir: the run's folder.
        preserve: steps of all checkpoints, rising -> those to keep. Called at every save.
        read_only: for a process that looks on while another one trains.
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
        # A reader may come before the first checkpoint.
        if self._read_only and not self._folder.is_dir():
            return None
        return ocp.CheckpointManager(self._folder, options=self._options)

    def steps(self) -> list[int]:
        """Steps of all whole checkpoints, as they are on disk now, rising."""
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
        """Start saving in the background; does nothing if the step is there. The state may be changed at once."""
        if self._read_only or step in self._manager.all_steps():
            return
        # A copy, since orbax writes it later, when the devices may have reused the memory.
        state = jax.tree.map(np.array, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), checksum=ocp.args.JsonSave({"crc32": checksum(state)})
            ),
        )

    def wait(self) -> None:
        """Return when every checkpoint that was begun is whole."""
        if not self._read_only:
            self._manager.wait_until_finished()

    def restore(self, step: int, like):
        """The state saved at `step`, with the structure, shapes and devices of `like`.

        Raises:
            DamagedCheckpoint: process 0 cannot read it, or finds another checksum.
            UserError: only some other process cannot, for as long as a network file system may take to show it.
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
        """(the arrays in this process's memory, None), or (None, what is wrong with them)."""
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
        except Exception as error:  # orbax and tensorstore raise many kinds for a file that is cut, missing or altered
            reason = " ".join(str(error).split("See full TensorStore details")[0].split())[:200]
            return None, f"cannot be read: {reason}"
        return saved.state, None

    def restore_latest(self, like):
        """The newest checkpoint that can be restored; None where there is no checkpoint at all.

        Newer ones that cannot are reported and moved to a folder of their own, so that their steps can be saved again.

        Raises:
            UserError: there are checkpoints and none can be restored. That is hardly damage, so nothing is moved.
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
                f"({next(iter(damaged.values()))}); restore the files, or give another --workdir to start anew"
            )
        return None

    def _set_aside(self, step: int) -> None:
        """Move a checkpoint out of the way."""
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
        """Finish what was begun."""
        if self._manager is not None:
            self._manager.close()


def checksum(state) -> int:
    """CRC-32 over the bytes of all arrays, in the order of the tree."""
    crc = 0
    for leaf in jax.tree.leaves(jax.device_get(state)):
        crc = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8), crc)
    return crc
