"""Several processes that run one program, usually one per host: start-up, agreement, and the loss of one of them.

    with hosts.connected(cluster.find(coordinator, processes, process)):
        ...

All processes run the same code on the same numbers. Decisions that depend on a file or a clock need agreement: `decide`
returns the answer of process 0 to all, `gather` the answers of all; with one process neither costs anything.

JAX's coordination service watches the processes: if one is gone, it ends the others. Where a collective fails before
it does, as on CPUs, they end with one line of our own. A port that is taken, and processes that do not come, are seen
here first: JAX would crash in C++.
"""

import contextlib
import errno
import faulthandler
import json
import math
import os
import pathlib
import re
import socket
import sys
import threading
import time
import uuid

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrobust.distributed import parallel
from jaxrobust.distributed.cluster import Job
from jaxrobust.errors import FieldError, UserError

GONE = 75  # exit code if another process has ended: "temporary failure" in sysexits.h, so a restart may help
# How long process 0 waits after an error for the others to report theirs: its end ends them at once.
GRACE_SECONDS = 5
SHARED_SECONDS = 60  # network file systems may show new files late

_names: list[str] = []  # of the hosts of all processes


class LostProcess(UserError):
    """Another process has ended."""

    exit_code = GONE


@contextlib.contextmanager
def connected(job: Job | None, *, agreed=(), start_timeout: float = 300, process_timeout: float = 60):
    """Connect to the other processes of the job during the context; enter it before any use of a device.

    Args:
        job: None: there is only this process.
        agreed: exceptions that all processes raise together; they wait for each other before raising them further.
        start_timeout: seconds to wait for all processes to connect.
        process_timeout: seconds without a heartbeat after which a process counts as lost, and JAX ends the others.

    Raises:
        LostProcess: another process has ended.
    """
    if job is None:
        yield
        return
    _join(job, start_timeout, process_timeout)
    together = None
    try:
        try:
            yield
        except agreed as error:
            together = error
        if several():
            multihost_utils.sync_global_devices("end")  # unlike the shutdown, it waits as long as a process needs
    except Exception as error:
        if several() and (cause := _lost_connection(error)):
            raise LostProcess(
                f"another process has ended, see its own message ({cause}); "
                "start the same command again, it continues from the last checkpoint"
            ) from error
        raise
    jax.distributed.shutdown()
    if together is not None:
        raise together


def several() -> bool:
    """Whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def leave(exit_code: int | None) -> None:
    """Exit this process. After an error in one of several, do not wait for the others at exit, as JAX would."""
    if not jax.distributed.is_initialized():
        sys.exit(exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    others = jax.process_count() - 1 - (exit_code == GONE)  # that are still there
    if others > 0 and parallel.is_writer():
        time.sleep(GRACE_SECONDS)
    os._exit(exit_code or 0)


def decide(function):
    """Call `function` on process 0 only, and return its result, a JSON value, or raise its UserError, on all."""
    if not several():
        return function()
    said = None
    if parallel.is_writer():
        try:
            said = [function(), None]
        except UserError as error:
            said = [None, str(error)]
    result, problem = gather(said)[0]
    if problem is not None:
        raise UserError(problem)
    return result


def gather(value) -> list:
    """The values of all processes, JSON values, in the order of the process numbers."""
    if not several():
        return [value]
    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(mine)))
    size = 1 << int(max(lengths) - 1).bit_length()  # a program is compiled for each size
    texts = multihost_utils.process_allgather(np.pad(mine, (0, size - len(mine))))
    return [json.loads(text[:length].tobytes()) for text, length in zip(texts, lengths, strict=True)]


def describe(process: int) -> str:
    """The name of a process for messages."""
    return f"process {process} of {len(_names)} ({_names[process]})" if _names else "this process"


def check_alike(settings: dict, remedy: str = "start all processes with the same command") -> None:
    """Raises UserError, which names the first setting of a flat dict that a process has otherwise."""
    for process, theirs in enumerate(gather(settings)):
        for name in sorted({*settings, *theirs}):
            mine = json.loads(json.dumps(settings.get(name)))
            if theirs.get(name) != mine:
                raise UserError(f"{name} = {mine!r}: {describe(process)} has {theirs.get(name)!r}; {remedy}")


def check_shared(folder) -> None:
    """Raises FieldError, which names the processes that do not see the same `workdir` as process 0."""
    if not several():
        return
    # Unique to this call, and named so that `files.clean` removes it after a kill.
    proof = pathlib.Path(folder) / decide(lambda: f".shared.{os.getpid()}.{uuid.uuid4().int}")
    if parallel.is_writer():
        proof.touch()
    until = time.monotonic() + SHARED_SECONDS
    while not (sees := proof.exists()) and time.monotonic() < until:
        time.sleep(0.5)
    blind = [describe(process) for process, value in enumerate(gather(sees)) if not value]
    if parallel.is_writer():
        proof.unlink(missing_ok=True)
    if blind:
        problem = f"{', '.join(blind)} does not see the files of process 0 there"
        raise FieldError("workdir", str(folder), problem, "put it on storage that all hosts share")


def _join(job: Job, start_timeout: float, process_timeout: float):
    """Connect all processes and their devices."""
    if job.process == 0 and job.coordinator:
        _check_port(job.coordinator)
    deadline = threading.Timer(start_timeout, _give_up, [job, start_timeout])
    deadline.daemon = True
    deadline.start()
    try:
        jax.distributed.initialize(
            job.coordinator,
            job.processes,
            job.process,
            local_device_ids=job.local_device_ids,
            cluster_detection_method=job.cluster,
            initialization_timeout=int(start_timeout) + 60,
            heartbeat_timeout_seconds=math.ceil(process_timeout),
            shutdown_timeout_seconds=math.ceil(process_timeout),
        )
    except ValueError as error:
        if job != Job(cluster=None):
            raise UserError(f"JAX cannot connect the processes: {error}; correct the variables of the job") from error
        # else JAX has found no cluster around this TPU: it is a host by itself
    finally:
        deadline.cancel()
    if several():
        # When it has lost a process, JAX aborts this one with a message of its own, and stacks would bury that.
        faulthandler.disable()
        # Devices connect at their first collective, and CPU devices wait only 30 s for each other. Later the processes
        # may be further apart, for example if only one of them finds a compiled program in its cache.
        parallel.connect_devices(parallel.make_mesh())
        _names[:] = gather(socket.gethostname())


def _check_port(coordinator):
    """Check that the coordinator's port is free."""
    try:
        socket.create_server(("::", int(coordinator.rpartition(":")[2])), family=socket.AF_INET6).close()
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            problem = f"the port cannot be opened ({os.strerror(error.errno)})"
            raise FieldError("coordinator", coordinator, problem, "give another port") from error


def _give_up(job: Job, seconds: float):
    """End this process, from another thread than the one that waits."""
    late = f"process {job.process} cannot reach process 0, or others are missing," if job.process else ""
    there = f" at {job.coordinator}" if job.coordinator else ""
    message = f"{late or 'not all processes have connected'} after {seconds:g} s{there}"
    os.write(2, f"error: {message}; start them all, with a coordinator that each host can reach\n".encode())
    os._exit(GONE)


def _lost_connection(error: BaseException | None) -> str | None:
    """The message of a failed connection to another process among the causes of an error; None if there is none."""
    while error is not None:
        if re.search("gloo|nccl|connection closed|coordination service|barrier", message := str(error), re.IGNORECASE):
            return " ".join(message.split())[:120]
        error = error.__cause__ or error.__context__
    return None
