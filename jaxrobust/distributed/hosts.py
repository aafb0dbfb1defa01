"""Several processes that run one program, usually one per host: start-up, agreement, and the failure of one of them.

    with hosts.connected(cluster.find(coordinator, processes, process)):
        ...

All processes run the same code on the same numbers, so they take the same decisions. Decisions that depend on a file,
a clock or a signal need agreement: `decide` returns the answer of process 0 to all, `gather` the answers of all. With
one process neither costs anything.

A watch thread in each process sends a heartbeat every `BEAT_SECONDS` and checks those of the others. It passes on stop
requests, and ends its process when another one has ended, because a collective would wait for that one for ever.
"""

import contextlib
import ctypes
import errno
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
import uuid

import jax

from jaxrobust import console
from jaxrobust.distributed import parallel
from jaxrobust.distributed.cluster import Job
from jaxrobust.errors import FieldError, UserError

BEAT_SECONDS = 0.5
# How long a process that has failed, or sees that another one has, waits for the others to report their errors first.
GRACE_SECONDS = 3.0
# After an error such as a lost connection, a process without heartbeats for this long is taken to be the cause.
SILENT_SECONDS = 5.0
GONE = 75  # exit code if another process has ended: "temporary failure" in sysexits.h, so a restart may help
SHARED_SECONDS = 60  # network file systems may show new files late

LAST_SECONDS = 30  # that `before_death` may take

_team = None  # the _Team of this process; None if there is only one process


@contextlib.contextmanager
def connected(job: Job | None, *, agreed=(), start_timeout: float = 300, process_timeout: float = 60):
    """Connect to the other processes of the job during the context; enter it before any use of a device.

    An error in one process ends all of them, each with a line that names the cause.

    Args:
        job: None: there is only this process.
        agreed: exceptions that all processes raise together; they wait for each other before raising them further.
        start_timeout: seconds to wait for all processes to connect.
        process_timeout: seconds without a heartbeat after which a process counts as ended.
    """
    global _team
    if job is None:
        yield
        return
    _team = _join(job, start_timeout, process_timeout)
    together = None
    try:
        try:
            yield
        except agreed as error:
            together = error
        _team.leave()
    except BaseException as error:
        _team.fail(error)
        raise
    _team = None
    if together is not None:
        raise together


def leave(exit_code: int | None) -> None:
    """Exit this process. With several processes, do not wait for the others at exit, as JAX would."""
    if _team is None:
        sys.exit(exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code or 0)


def decide(function):
    """Call `function` on process 0 only, and return its result, a JSON value, on all processes."""
    return function() if _team is None else _team.decide(function)


def gather(value) -> list:
    """The values of all processes, JSON values, in the order of the process numbers."""
    return [value] if _team is None else _team.gather(value)


def describe(process: int) -> str:
    """The name of a process for messages."""
    return "this process" if _team is None else _team.name(process)


def request_stop(signal_number: int) -> None:
    """Ask all processes to stop. Safe in a signal handler."""
    if _team is not None:
        _team.requested = signal_number


def agreed_stop(signal_number: int | None) -> int | None:
    """The signal on which all processes stop now; None to continue. All of them must call it at the same places.

    The n-th call returns the same on all processes, because they agree on the n at which to stop.

    Args:
        signal_number: received by this process; returned if there is no other process.
    """
    return signal_number if _team is None else _team.agreed_stop()


def stop_is_near(signal_number: int | None) -> bool:
    """Whether the next call of `agreed_stop` may return a signal."""
    return signal_number is not None if _team is None else _team.stop_at is not None


def check_alike(settings: dict, remedy: str = "start all processes with the same command") -> None:
    """Check that all processes have the same settings, a flat dict.

    Raises:
        UserError: names the first setting that differs, and the process.
    """
    for process, theirs in enumerate(gather(settings)):
        for name in sorted({*settings, *theirs}):
            mine = json.loads(json.dumps(settings.get(name)))
            if theirs.get(name) != mine:
                raise UserError(f"{name} = {mine!r}: {describe(process)} has {theirs.get(name)!r}; {remedy}")


def check_shared(folder) -> None:
    """Check that all processes see the same folder.

    Raises:
        UserError: names the processes that do not.
    """
    if _team is None:
        return

    def write():
        name = f".shared-{uuid.uuid4().hex}"  # unique to this call
        (folder / name).touch()
        return name

    folder = pathlib.Path(folder)
    proof = folder / decide(write)
    until = time.monotonic() + SHARED_SECONDS
    while not (sees := proof.exists()) and time.monotonic() < until:
        time.sleep(0.5)
    blind = [describe(process) for process, value in enumerate(gather(sees)) if not value]
    if parallel.is_writer():
        proof.unlink(missing_ok=True)
    if blind:
        raise UserError(
            f"workdir = {str(folder)!r}: {', '.join(blind)} does not see the files of process 0 there; "
            "put it on storage that all hosts share"
        )


def _join(job: Job, start_timeout: float, process_timeout: float):
    """Connect all processes and their devices."""
    me = f"process {job.process} of {job.processes}"
    if job.process == 0:
        _check_port(job.coordinator)
        late = f"not all of the {job.processes} processes connected to {job.coordinator} within {start_timeout:g} s"
    else:
        late = f"{me} cannot reach process 0 at {job.coordinator}, or others are missing, after {start_timeout:g} s"
    # On a timeout of its own, JAX would abort the process from C++ with a long log.
    deadline = threading.Timer(
        start_timeout, _die, [f"{late}; start them all, with a --coordinator that each host can reach"]
    )
    deadline.daemon = True
    deadline.start()
    # JAX's preemption service would handle SIGTERM; here the processes agree on a stop, see `agreed_stop`.
    jax.config.update("jax_enable_preemption_service", False)
    _explain_aborts(job, me)
    jax.distributed.initialize(
        job.coordinator,
        job.processes,
        job.process,
        local_device_ids=job.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=int(start_timeout) + 60,
        # Longer than our own timeout, whose message is clearer.
        heartbeat_timeout_seconds=int(2 * process_timeout) + 10,
        shutdown_timeout_seconds=int(process_timeout),
    )
    from jax._src import distributed  # JAX has no public access to the key-value store

    team = _Team(job, distributed.global_state.client, process_timeout)
    deadline.cancel()
    # Devices connect at their first collective, and CPU devices wait only 30 s for each other. Later the processes may
    # be further apart, for example if only one of them finds a compiled program in its cache.
    jax.devices()
    team.gather("here")
    parallel.connect_devices(parallel.make_mesh())
    return team


def _check_port(coordinator):
    """Check that the coordinator's port is free; JAX would crash if it is not."""
    port = coordinator.rpartition(":")[2]
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("::", int(port)))
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise FieldError(
                "--coordinator", coordinator, f"the port cannot be opened ({error.strerror})", "give another port"
            ) from error


def _explain_aborts(job: Job, me: str):
    """Print the reason when JAX aborts the process from C++, as it does immediately when the coordinator has ended."""
    global _abort_handler
    host, _, port = job.coordinator.rpartition(":")

    def handle(_):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            cause = f"JAX has stopped {me} (see above)"
            if _team is not None:
                _team.await_the_cause()
        except OSError:
            cause = f"process 0 of {job.processes} ({host}) is gone"
        _die(f"{cause}; {_AGAIN}")

    # A Python signal handler would not run: the main thread does not return from C++.
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    ctypes.CDLL(None).signal(signal.SIGABRT, _abort_handler)


def before_death(function) -> None:
    """Register a function to call before this process ends because of another one. It must not need other processes."""
    global _before_death
    _before_death = function


def _before_death():
    pass


_abort_handler = None  # kept alive here, since C holds no reference
_AGAIN = "start the same command again, it continues from the last checkpoint"


def _die(message: str, exit_code: int = GONE):
    """Print an error and end the process, from any thread."""
    # In its own thread, since it may never return.
    last = threading.Thread(target=_before_death, daemon=True)
    last.start()
    last.join(LAST_SECONDS)
    console.restore()
    os.write(2, f"error: {message}\n".encode())
    os._exit(exit_code)


class _Team:
    """The other processes, seen from this one through the key-value store of JAX's coordinator."""

    def __init__(self, job: Job, client, timeout: float):
        self._me, self._size, self._client = job.process, job.processes, client
        self._patience = timeout
        self._decisions = 0
        self._hosts = {}
        self._seen = ""  # the error by which this process noticed that another one has ended
        self._failed = False  # whether this process has failed
        self._ended = threading.Event()
        # Stopping: how often the main thread has called `agreed_stop`, and from which call on it returns a signal.
        self.requested: int | None = None
        self.stop_at: int | None = None
        self._signal: int | None = None
        self._asked = 0
        self._counting = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def name(self, process: int) -> str:
        host = f" ({self._hosts[process]})" if process in self._hosts else ""
        return f"process {process} of {self._size}{host}"

    # Agreement.

    def decide(self, function):
        self._decisions += 1
        key = f"jaxrobust/decision/{self._decisions}"
        if self._me == 0:
            self._client.key_value_set(key, json.dumps(function()))
        return json.loads(self._get(key))

    def gather(self, value) -> list:
        self._decisions += 1
        key = f"jaxrobust/decision/{self._decisions}"
        self._client.key_value_set(f"{key}/{self._me}", json.dumps(value))
        return [json.loads(self._get(f"{key}/{process}")) for process in range(self._size)]

    def _get(self, key: str) -> str:
        """Wait for a value. The watch thread ends the process if it can never come."""
        while True:
            try:
                return self._client.blocking_key_value_get(key, 500)  # ms, after which Python can handle signals
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def agreed_stop(self) -> int | None:
        with self._condition:
            # Block while the processes compare how often each has asked.
            self._condition.wait_for(lambda: not self._counting)
            self._asked += 1
            return self._signal if self.stop_at is not None and self._asked >= self.stop_at else None

    # The end.

    def leave(self):
        """Wait until all processes are done, and stop watching them."""
        self.gather("done")
        self._ended.set()
        self._thread.join()

    def fail(self, error: BaseException):
        """Tell the other processes about an error, unless one of them has caused it."""
        ours = isinstance(error, Exception) and type(error).__module__.startswith("jaxrobust.")
        if not ours and isinstance(error, Exception):
            self._seen = f" (seen here as {type(error).__name__}: {' '.join(str(error).split())[:120]})"
            self.await_the_cause()
        self._failed = True
        message = " ".join((str(error) if ours else f"{type(error).__name__}: {error}").split())[:500]
        exit_code = 130 if isinstance(error, KeyboardInterrupt) else 1
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"{_WATCH}failed/{self._me}", f"{exit_code} {message}")
            if self._me == 0:  # the store ends with this process
                time.sleep(2 * GRACE_SECONDS)

    def await_the_cause(self):
        """Wait for the watch to find the ended process behind a lost connection, which then ends this process."""
        self._patience = min(self._patience, SILENT_SECONDS)
        time.sleep(self._patience + GRACE_SECONDS)

    # The watch.

    def _watch(self):
        beats, told, since_failure = 0, False, None
        last = {process: (None, time.monotonic()) for process in range(self._size)}
        while not self._ended.wait(0.02 if self._counting else BEAT_SECONDS):
            beats += 1
            try:
                self._set(f"alive/{self._me}", f"{beats} {socket.gethostname()}")
                if self.requested is not None and not told:
                    self._set(f"stop/{self._me}", str(self.requested))
                    told = True
                entries = {key.removeprefix(_WATCH): v for key, v in self._client.key_value_dir_get(_WATCH)}
            except Exception:  # whatever the error is, the state of the others is unknown
                if not self._failed and not self._ended.is_set():
                    _die(f"{self.name(0)} is gone{self._seen}; {_AGAIN}")
                return
            self._agree(entries)
            failed = {int(key.split("/")[1]): v for key, v in entries.items() if key.startswith("failed/")}
            if failed and not self._failed:
                since_failure = since_failure or time.monotonic()
                if time.monotonic() - since_failure > GRACE_SECONDS:
                    process, message = min(failed.items())
                    exit_code, message = message.split(" ", 1)
                    _die(f"{self.name(process)} has stopped: {message}", int(exit_code))
            for process in range(self._size):
                if beat := entries.get(f"alive/{process}"):
                    self._hosts[process] = beat.split(" ", 1)[1]
                if beat != last[process][0]:
                    last[process] = beat, time.monotonic()
                silent = time.monotonic() - last[process][1]
                if silent > self._patience and process != self._me and process not in failed and not self._failed:
                    _die(f"{self.name(process)} is gone, silent for {silent:.0f} s{self._seen}; {_AGAIN}")

    def _set(self, key: str, value: str):
        self._client.key_value_set(_WATCH + key, value, allow_overwrite=True)

    def _agree(self, entries: dict):
        """After a stop request: all processes exchange how often they have asked, and stop at the maximum plus one."""
        if self.stop_at is not None or not any(key.startswith("stop/") for key in entries):
            return
        if not self._counting:
            with self._condition:
                self._counting = True
                asked = self._asked
            first = min(key for key in entries if key.startswith("stop/"))
            self._set(f"asked/{self._me}", f"{asked} {entries[first]}")
            return
        answers = [entries.get(f"asked/{process}") for process in range(self._size)]
        if None not in answers:
            with self._condition:
                self.stop_at = 1 + max(int(answer.split()[0]) for answer in answers)
                self._signal = int(answers[0].split()[1])  # as seen by process 0, if there are several
                self._counting = False
                self._condition.notify_all()


_WATCH = "jaxrobust/watch/"
