"""Several runs of a study at a time on one machine, each in a process with its share of the cores and GPUs.

The processes are started by the command that the user gave, with --worker. Each is told on standard input which run
comes next, so that none waits for another and no two train the same, and answers on standard output what went wrong.
Where standard input ends without a word the parent is gone: the process saves and stops.

WORKDIR/runs/NAME/log.txt     what the run has to say
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
from collections.abc import Mapping, Sequence
from multiprocessing import connection

import jax
from jax.extend import backend

from jaxrobust import console
from jaxrobust.interruption import Interrupted, StopRequest
from jaxrobust.studies import running
from jaxrobust.studies.design import Planned

LOG = "log.txt"  # in a run's folder
POLL_SECONDS = 0.5


def run_all(planned: list[Planned], workdir, processes: int) -> list[str]:
    """As `running.run_all`, `processes` runs at a time; one whose process dies has failed, and the others go on.

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
            clock = clock or _Clock(todo, len(children))  # takes seconds, in which the first runs begin
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
    """Leave them to the processes that are started meanwhile: JAX takes all it sees."""
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cpu")
    try:
        yield
    finally:
        jax.config.update("jax_platforms", before)
        backend.clear_backends()


@contextlib.contextmanager
def _ended(children):
    """No process outlives the context; what is in work is saved."""
    try:
        yield
    except KeyboardInterrupt:  # a second Ctrl-C: somebody has waited long enough
        for child in children:
            child.kill()
        raise
    finally:
        for child in children:
            child.dismiss()


def work(planned: list[Planned], workdir) -> None:
    """Train the runs that standard input names, one after the other, and answer each; what a child process does.

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
        error = running.attempt(named[name], where)
        print(json.dumps(error), file=answers, flush=True)
        jax.clear_caches()


def _listen(names: queue.SimpleQueue) -> None:
    # Unbuffered: a thread must not hold the lock of sys.stdin when Python ends.
    with open(0, "rb", buffering=0, closefd=False) as orders:
        while line := orders.readline():
            names.put(line.decode().strip())
            if not line.strip():  # no more to do
                return
    os.kill(os.getpid(), signal.SIGTERM)


def _open_log(where: pathlib.Path):
    where.mkdir(parents=True, exist_ok=True)
    return open(where / LOG, "ab")


class _Child:
    """A process that trains one run after the other; where it dies, the next run gets another one.

    Attributes:
        run: in work, None where there is none.
    """

    def __init__(self, workdir, cores: Sequence[int], environment: Mapping[str, str]):
        self._workdir, self._cores, self._environment = workdir, cores, environment
        self._process = self.run = None
        self._told_to_stop = False

    @property
    def answers(self):
        """To be waited for while a run is in work."""
        return self._process.stdout

    def folder(self, run: Planned) -> pathlib.Path:
        return running.folder(self._workdir, run)

    def seconds(self) -> float:
        """Since the run was begun."""
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
                    start_new_session=True,  # Ctrl-C is for the parent, which passes it on
                )
        finally:
            if before:
                os.sched_setaffinity(0, before)

    def _order(self, name: str):
        with contextlib.suppress(BrokenPipeError):  # it has died, as `collect` will find
            self._process.stdin.write(f"{name}\n".encode())

    def has_died(self) -> bool:
        return self._process.poll() is not None

    def collect(self) -> str:
        """What went wrong with the run that has ended, "" for nothing."""
        run, self.run = self.run, None
        # What a dead one has begun may hold its standard output open.
        if answer := b"" if self.has_died() else self.answers.readline():
            return json.loads(answer)
        code = self._end()
        if running.status(self._workdir, run).state == "done":
            return ""
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        message = f"its process {how}; see {self.folder(run) / LOG}"
        return message if self._told_to_stop else running.record_failure(self.folder(run), message)

    def stop(self) -> None:
        """Let it save and end."""
        if not self._told_to_stop:
            self._process.terminate()
        self._told_to_stop = True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def dismiss(self) -> None:
        """Wait for its end: at once where nothing is in work, else after a save."""
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
    """The time that is left, by the arithmetic of the runs and the seconds that others have taken."""

    def __init__(self, todo: list[Planned], processes: int):
        self._left, self._processes = running.flops(todo), processes
        self._work, self._seconds = [], []  # of those done

    def tick(self, run: Planned, seconds: float, busy: list[float]) -> str:
        """What to say of the time left after a run has ended.

        Args:
            seconds: that it took; 0 where it failed.
            busy: seconds since each of those in work was begun.
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
        """Seconds of a run: of small ones a good part is start and compilation, which is the same for all."""
        if len(set(self._work)) > 1:
            rate, overhead = statistics.linear_regression(self._work, self._seconds)
            if rate > 0 and overhead > 0:
                return overhead + rate * work
        return work * sum(self._seconds) / sum(self._work)


def _shares(count: int) -> list[tuple[list[int], dict[str, str]]]:
    """Of each of `count` processes its cores, none where they cannot be chosen, and its environment.

    What a run finds must not depend on the process that took it, nor on their number: all have equally many GPUs, and
    compute with as many threads as one process would.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus = _gpus()
    gpus = gpus[: len(gpus) // count * count] or gpus
    threads = {"NPROC": str(len(cores))} if cores else {}  # XLA's arithmetic on a CPU is cut up by their number
    return [
        (share(cores, i, count), threads | environment(os.environ, share(gpus, i, count), len(gpus), count))
        for i in range(count)
    ]


def share(items: Sequence, i: int, count: int) -> list:
    """Part i of `count`, from 0: apart from each other where there are enough items, else one item for several."""
    start = i * len(items) // count
    return list(items[start : max(start + 1, (i + 1) * len(items) // count)])


def environment(given: Mapping[str, str], gpus: Sequence[str], of: int, processes: int) -> dict[str, str]:
    """The environment of a process that has these of so many GPUs, which so many processes share.

    JAX takes three quarters of a GPU's memory for itself; of several on one GPU each may take its part of nine tenths,
    unless the user has said how much.
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
    """Those that this process may use, as CUDA_VISIBLE_DEVICES names them; asked for without taking them."""
    if not {"", "cuda", "gpu"} & set(os.environ.get("JAX_PLATFORMS", "").split(",")):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []
