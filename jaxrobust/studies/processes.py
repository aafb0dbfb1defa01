"""Several runs of a study at a time on one machine, each in a process with its share of the cores and GPUs.

Each run is a process of its own, started with the user's command line plus --worker=NAME, which costs each the seconds
of the imports. If its standard input ends, the parent has died: the process saves and stops.

WORKDIR/runs/NAME/log.txt     output of the run
"""

import contextlib
import os
import pathlib
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures

import jax
from jax.extend import backend

from jaxrobust import console
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.studies import running
from jaxrobust.studies.design import Planned

LOG = "log.txt"  # in a run's folder
POLL_SECONDS = 0.5


def run_all(planned: list[Planned], workdir, processes: int) -> list[str]:
    """As `running.run_all`, with `processes` runs at a time. A run whose process dies has failed; the others go on."""
    todo = [run for run in planned if running.status(workdir, run).state != "done"]
    if not todo:
        return []
    count = min(processes, len(todo))
    log = running.folder(workdir, todo[0]).with_name("NAME") / LOG
    console.say(f"{len(todo)} runs, {count} at a time; the log of each is {log}")
    failed, children = [], _Children(workdir, shares_of(count))
    with StopRequest() as stop, futures.ThreadPoolExecutor(count) as pool:
        try:
            left = {
                pool.submit(children.train, run, f"run {position} of {len(todo)}: {run.name}"): run
                for position, run in enumerate(todo, start=1)
            }
            clock = Clock(todo, count)
            while left:
                ended, _ = futures.wait(left, POLL_SECONDS, futures.FIRST_COMPLETED)
                for future in ended:
                    run, (error, seconds) = left.pop(future), future.result()
                    remaining = clock.tick(run, 0 if error else seconds, children.seconds())
                    if not error:
                        console.say(f"run {run.name} took {console.duration(seconds)}{remaining}")
                    elif not stop:
                        console.warn(f"run {run.name} failed: {error}")
                        failed.append(run.name)
                if stop:
                    children.stop()
        except BaseException:  # such as a second Ctrl-C: end at once, without saving
            children.kill()
            raise
    if stop:
        raise Interrupted(stop.signal_number, "the runs have stopped and saved; the same command continues")
    return failed


@contextlib.contextmanager
def without_accelerators():
    """Use only the CPU in this process, inside this context: JAX would otherwise reserve all visible accelerators."""
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cpu")
    try:
        yield
    finally:
        jax.config.update("jax_platforms", before)
        backend.clear_backends()


def work(planned: list[Planned], workdir, name: str, finish: Callable[[pathlib.Path], None] | None = None) -> str:
    """In a child process: train one run as `running.attempt`."""

    def end_with_the_parent():
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    (run,) = (run for run in planned if run.name == name)
    return running.attempt(run, running.folder(workdir, run), finish)


class _Children:
    """The processes of the runs in progress, each started and awaited by the thread that calls `train`."""

    def __init__(self, workdir, shares: list[tuple[list[int], dict[str, str]]]):
        self._workdir, self._free, self._started = workdir, queue.SimpleQueue(), {}
        self._processes: dict[str, subprocess.Popen] = {}  # by the name of the run
        self._stopping, self._lock = False, threading.Lock()
        for share in shares:
            self._free.put(share)

    def train(self, run: Planned, title: str) -> tuple[str, float]:
        """Train a run in a new process: its error message, "" on success, and its seconds."""
        cores, given = self._free.get()
        log = running.folder(self._workdir, run) / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock:
                if self._stopping:
                    return "not started", 0.0
                console.say(title)
                started = time.monotonic()
                process = _start(run, log, cores, given)
                self._processes[run.name], self._started[run.name] = process, started
            with process:
                code = process.wait()
            return self._outcome(run, log, code), time.monotonic() - started
        finally:
            self._processes.pop(run.name, None)
            self._started.pop(run.name, None)
            self._free.put((cores, given))

    def _outcome(self, run, log, code: int) -> str:
        status = running.status(self._workdir, run)
        if status.state == "done":
            return ""
        if code == 1:
            return status.error or f"see {log}"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        message = f"its process {how}; see {log}"
        return message if self._stopping else running.record_failure(log.parent, message)

    def seconds(self) -> list[float]:
        """Of each run in progress, the seconds since its start."""
        return [time.monotonic() - started for started in list(self._started.values())]

    def stop(self) -> None:
        """Ask all processes, once, to save and end; start no more."""
        with self._lock:
            if not self._stopping:
                self._stopping = True
                for process in list(self._processes.values()):
                    process.terminate()

    def kill(self) -> None:
        """End all processes without saving; start no more."""
        with self._lock:
            self._stopping = True
            for process in list(self._processes.values()):
                process.kill()


def _start(run: Planned, log: pathlib.Path, cores: Sequence[int], given: Mapping[str, str]) -> subprocess.Popen:
    if cores:
        os.sched_setaffinity(0, cores)  # of this thread, from which the process inherits it
    with open(log, "ab") as out:
        return subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:], f"--worker={run.name}"],
            env=given,
            stdin=subprocess.PIPE,  # nothing is written; see `work`
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C reaches only the parent, which then stops the children
        )


class Clock:
    """Estimates the remaining time, from the arithmetic of the runs and the seconds that finished runs have taken."""

    def __init__(self, todo: list[Planned], processes: int):
        self._left, self._processes = running.flops(todo), processes
        self._work, self._seconds = [], []  # of the finished runs

    def tick(self, run: Planned, seconds: float, busy: list[float]) -> str:
        """The text about the remaining time, after a run has ended in `seconds`, 0 if it failed, while others have been
        `busy` for so many seconds each.
        """
        work = self._left.pop(run.name)
        if seconds:
            self._work.append(work)
            self._seconds.append(seconds)
        if not self._left or not self._work:
            return ""
        left = sum(self._expected(work) for work in self._left.values()) - sum(busy)
        return f"; {len(self._left)} left, about {console.duration(max(0, left) / self._processes)}"

    def _expected(self, work: float) -> float:
        """Expected seconds of a run. Start and compilation take the same time for all, a large part of small runs."""
        if len(set(self._work)) > 1:
            rate, overhead = statistics.linear_regression(self._work, self._seconds)
            if rate > 0 and overhead > 0:
                return overhead + rate * work
        return work * sum(self._seconds) / sum(self._work)


def shares_of(count: int) -> list[tuple[list[int], dict[str, str]]]:
    """For each of `count` processes: its cores (empty if the system cannot assign cores), and its environment.

    The results of a run must not depend on the process that trains it, nor on the number of processes: all processes
    have the same number of GPUs, and compute with as many threads as a single process would.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus = _gpus()
    gpus = gpus[: len(gpus) // count * count] or gpus
    threads = {"NPROC": str(len(cores))} if cores else {}  # XLA splits its arithmetic on a CPU by this number
    return [
        (share(cores, i, count), threads | environment(os.environ, share(gpus, i, count), len(gpus), count))
        for i in range(count)
    ]


def share(items: Sequence, i: int, count: int) -> list:
    """Part i of `count`, i from 0. Parts are disjoint if there are enough items, else several parts share an item."""
    start = i * len(items) // count
    return list(items[start : max(start + 1, (i + 1) * len(items) // count)])


def environment(given: Mapping[str, str], gpus: Sequence[str], of: int, processes: int) -> dict[str, str]:
    """The environment of a child process that uses the GPUs `gpus`.

    If several of the `processes` share one of the GPUs, `of` in all, each gets an equal part of nine tenths of its
    memory, unless the user has set the fraction; by default JAX reserves three quarters for each.
    """
    made = dict(given)
    if not gpus:
        return made
    made["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    memory = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE")
    if processes > of and not any(name in given for name in memory):
        made["XLA_CLIENT_MEM_FRACTION"] = f"{0.9 / -(-processes // of):.3f}"
    return made


def _gpus() -> list[str]:
    """The GPUs that this process may use, as named in CUDA_VISIBLE_DEVICES; queried without reserving them."""
    if not {"", "cuda", "gpu"} & set(os.environ.get("JAX_PLATFORMS", "").split(",")):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []
