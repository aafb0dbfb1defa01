"""Several runs of a study at a time on one machine, each in a process with its share of the cores and GPUs.

The processes are started with the user's command line plus --worker. The parent writes the name of the next run to the
standard input of a process, so that no process waits for another and no run is trained twice. The process answers on
standard output with the error message of the run. If standard input ends without an empty line, the parent has died:
the process saves and stops.

WORKDIR/runs/NAME/log.txt     output of the run
"""

import contextlib
import json
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
from multiprocessing import connection

import jax
from jax.extend import backend

from jaxrobust import console
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.studies import running
from jaxrobust.studies.design import Planned

LOG = "log.txt"  # in a run's folder
POLL_SECONDS = 0.5


def run_all(planned: list[Planned], workdir, processes: int) -> list[str]:
    """As `running.run_all`, with `processes` runs at a time. A run whose process dies has failed; the others go on.

    Raises:
        Interrupted: by SIGTERM or Ctrl-C, after all of them have saved. The same call continues.
    """
    todo = [run for run in planned if running.status(workdir, run).state != "done"]
    following, failed, clock = iter(enumerate(todo, start=1)), [], None
    children = [_Child(workdir, *share) for share in _shares(min(processes, len(todo)))]
    if children:
        log = running.folder(workdir, todo[0]).with_name("NAME") / LOG
        console.say(f"{len(todo)} runs, {len(children)} at a time; the log of each is {log}")
    with StopRequest() as stop, _ended(children):
        while True:
            for child in children:
                if child.run is None and not stop and (upcoming := next(following, None)):
                    position, run = upcoming
                    console.say(f"run {position} of {len(todo)}: {run.name}")
                    child.train(run)
            busy = [child for child in children if child.run]
            if stop:
                for child in busy:
                    child.stop()
            if not busy:
                break
            clock = clock or _Clock(todo, len(children))  # takes seconds, so only after the first runs are started
            ready = connection.wait([child.answers for child in busy], POLL_SECONDS)
            for child in busy:
                if child.answers not in ready and not child.has_died():
                    continue
                run, seconds = child.run, child.seconds()
                error = child.collect()
                left = clock.tick(run, 0 if error else seconds, [other.seconds() for other in busy if other.run])
                if not error:
                    console.say(f"run {run.name} took {console.duration(seconds)}{left}")
                elif not stop:
                    console.warn(f"run {run.name} failed: {error}")
                    failed.append(run.name)
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


@contextlib.contextmanager
def _ended(children):
    """End all child processes when the context is left; runs in progress are saved first."""
    try:
        yield
    except KeyboardInterrupt:  # a second Ctrl-C: end at once, without saving
        for child in children:
            child.kill()
        raise
    finally:
        for child in children:
            child.dismiss()


def work(planned: list[Planned], workdir, finish: Callable[[pathlib.Path], None] | None = None) -> None:
    """The loop of a child process: train the runs named on standard input, one after the other, and answer each.

    Raises:
        Interrupted: by SIGTERM, after saving.
    """
    named, names = {run.name: run for run in planned}, queue.SimpleQueue()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    threading.Thread(target=_listen, args=(names,), daemon=True).start()
    while name := names.get():
        where = running.folder(workdir, named[name])
        with _open_log(where) as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
        error = running.attempt(named[name], where, finish)
        print(json.dumps(error), file=answers, flush=True)
        jax.clear_caches()


def _listen(names: queue.SimpleQueue) -> None:
    # Unbuffered: a thread must not hold the lock of sys.stdin when Python ends.
    with open(0, "rb", buffering=0, closefd=False) as orders:
        while line := orders.readline():
            names.put(line.decode().strip())
            if not line.strip():  # an empty line: no more runs
                return
    os.kill(os.getpid(), signal.SIGTERM)


def _open_log(where: pathlib.Path):
    where.mkdir(parents=True, exist_ok=True)
    return open(where / LOG, "ab")


class _Child:
    """A child process that trains one run after the other. If it dies, a new process is started for the next run.

    Attributes:
        run: the run in progress, None if there is none.
    """

    def __init__(self, workdir, cores: Sequence[int], environment: Mapping[str, str]):
        self._workdir, self._cores, self._environment = workdir, cores, environment
        self._process = self.run = None
        self._told_to_stop = False

    @property
    def answers(self):
        """The stream of answers, to wait for while a run is in progress."""
        return self._process.stdout

    def folder(self, run: Planned) -> pathlib.Path:
        return running.folder(self._workdir, run)

    def seconds(self) -> float:
        """Seconds since the run was started."""
        return time.monotonic() - self._since

    def train(self, run: Planned) -> None:
        self.run, self._since = run, time.monotonic()
        if self._process is None:
            self._start()
        self._order(run.name)

    def _start(self):
        before = os.sched_getaffinity(0) if self._cores else None
        try:
            if before:  # the child inherits it, and has not started a thread yet
                os.sched_setaffinity(0, self._cores)
            with _open_log(self.folder(self.run)) as log:
                self._process = subprocess.Popen(
                    [sys.executable, *sys.orig_argv[1:], "--worker"],
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    start_new_session=True,  # Ctrl-C reaches only the parent, which then stops the children
                )
        finally:
            if before:
                os.sched_setaffinity(0, before)

    def _order(self, name: str):
        with contextlib.suppress(BrokenPipeError):  # the process has died; `collect` detects that
            self._process.stdin.write(f"{name}\n".encode())

    def has_died(self) -> bool:
        return self._process.poll() is not None

    def collect(self) -> str:
        """The error message of the run that has ended, "" on success."""
        run, self.run = self.run, None
        # Subprocesses of a dead process may keep its standard output open, so reading from it could block.
        if answer := b"" if self.has_died() else self.answers.readline():
            return json.loads(answer)
        code = self._end()
        if running.status(self._workdir, run).state == "done":
            return ""
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        message = f"its process {how}; see {self.folder(run) / LOG}"
        return message if self._told_to_stop else running.record_failure(self.folder(run), message)

    def stop(self) -> None:
        """Ask the process to save and end."""
        if not self._told_to_stop:
            self._process.terminate()
        self._told_to_stop = True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def dismiss(self) -> None:
        """End the process and wait: immediately if no run is in progress, else after saving."""
        if self._process is not None:
            self._order("") if self.run is None else self.stop()
            self._end()

    def _end(self) -> int:
        code = self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process = None
        return code


class _Clock:
    """Estimates the remaining time, from the arithmetic of the runs and the seconds that finished runs have taken."""

    def __init__(self, todo: list[Planned], processes: int):
        self._left, self._processes = running.flops(todo), processes
        self._work, self._seconds = [], []  # of the finished runs

    def tick(self, run: Planned, seconds: float, busy: list[float]) -> str:
        """The text about the remaining time, after a run has ended.

        Args:
            seconds: duration of this run; 0 if it failed.
            busy: for each run in progress, the seconds since its start.
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


def _shares(count: int) -> list[tuple[list[int], dict[str, str]]]:
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

    By default, JAX reserves three quarters of a GPU's memory. If several processes share a GPU, each gets an equal part
    of nine tenths, unless the user has set the fraction.

    Args:
        of, processes: the number of all GPUs, and of the processes that share them.
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
