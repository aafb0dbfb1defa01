"""Several processes that run one program, usually one on each host: start-up, agreement, and the end of one of them.

    with hosts.connected(cluster.find(coordinator, processes, process)):
        ...

All processes run the same code on the same numbers, so they decide alike. What depends on a file, a clock or a signal
is decided once: `decide` takes the answer of process 0, `gather` that of all. With one process all of this is free.

A thread in each process says every `BEAT_SECONDS` that it lives and looks at the others. It brings a request to stop to
all of them, and ends the process when another one is gone: a collective that waits for it would hang for ever.
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

from jaxrobust import console, parallel
from jaxrobust.cluster import Job
from jaxrobust.errors import FieldError, UserError

BEAT_SECONDS = 0.5
# How long a process that has failed, or sees that another one has, waits for the others to say their own errors first.
GRACE_SECONDS = 3.0
# After an error such as a lost connection, a process silent for as long as this is its cause.
SILENT_SECONDS = 5.0
GONE = 75  # exit code where another process is gone: "temporary failure" in sysexits.h, so worth starting again
SHARED_SECONDS = 60  # network file systems show a new file late

LAST_SECONDS = 30  # what a process may do before it ends because of another one

_team = None  # of this process, where there are several


@contextlib.contextmanager
def connected(job: Job | None, *, agreed=(), start_timeout: float = 300, process_timeout: float = 60):
    """Join the job's processes, for the time of the context; to be entered before any use of a device.

    An error on one process ends all of them, each with a line that says where it came from.

    Args:
        agreed: exceptions that all processes raise together; they wait for each other before they go on with it.
        start_timeout: seconds after which processes that have not come are missing.
        process_timeout: seconds after which a process that gives no sign of life is gone.
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
    """End this process; in failure without waiting for others where there are any, as JAX would."""
    if _team is None:
        sys.exit(exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code or 0)


def decide(function):
    """What `function()` returns on process 0, a value of JSON, on all processes. Others do not call it."""
    return function() if _team is None else _team.decide(function)


def gather(value) -> list:
    """The values of all processes, each one of JSON, in the order of their numbers."""
    return [value] if _team is None else _team.gather(value)


def describe(process: int) -> str:
    """A process as messages name it."""
    return "this process" if _team is None else _team.name(process)


def request_stop(signal_number: int) -> None:
    """Ask all processes to stop. Safe in a signal handler."""
    if _team is not None:
        _team.requested = signal_number


def agreed_stop(signal_number: int | None) -> int | None:
    """The signal that all processes stop for now; None to go on. To be asked at the same places by all of them.

    Asked for the n-th time it gives the same answer on each, since they agree on the n from which to stop.

    Args:
        signal_number: of this process alone, which is the answer where there is no other.
    """
    return signal_number if _team is None else _team.agreed_stop()


def stop_is_near(signal_number: int | None) -> bool:
    """Whether the next answer of `agreed_stop` may be to stop."""
    return signal_number is not None if _team is None else _team.stop_at is not None


def check_alike(settings: dict, remedy: str = "start all processes with the same command") -> None:
    """Refuse processes whose settings, a flat dict, differ.

    Raises:
        UserError: names the first setting that differs, and the process.
    """
    for process, theirs in enumerate(gather(settings)):
        for name in sorted({*settings, *theirs}):
            mine = json.loads(json.dumps(settings.get(name)))
            if theirs.get(name) != mine:
                raise UserError(f"{name} = {mine!r}: {describe(process)} has {theirs.get(name)!r}; {remedy}")


def check_shared(folder) -> None:
    """Refuse a folder that some process does not see.

    Raises:
        UserError: names the processes.
    """
    if _team is None:
        return

    def write():
        name = f".shared-{uuid.uuid4().hex}"  # of this run of this job alone
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
        late = f"not all of the {job.processes} processes came to {job.coordinator} within {start_timeout:g} s"
    else:
        late = f"{me} cannot reach process 0 at {job.coordinator}, or others are missing, after {start_timeout:g} s"
    # JAX ends a process that waits in vain from C++, with a log of many lines.
    deadline = threading.Timer(
        start_timeout, _die, [f"{late}; start them all, with a --coordinator that each host can reach"]
    )
    deadline.daemon = True
    deadline.start()
    # A request to stop is agreed on below; JAX's own service would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    _explain_aborts(job, me)
    jax.distributed.initialize(
        job.coordinator,
        job.processes,
        job.process,
        local_device_ids=job.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=int(start_timeout) + 60,
        # Later than ours, whose message is clearer.
        heartbeat_timeout_seconds=int(2 * process_timeout) + 10,
        shutdown_timeout_seconds=int(process_timeout),
    )
    from jax._src import distributed  # the only way to the key-value store that all processes share

    team = _Team(job, distributed.global_state.client, process_timeout)
    deadline.cancel()
    # Devices connect at their first collective, and on CPUs wait only 30 s for each other. Later on they may be further
    # apart than that, for example when one process finds a compiled program in its cache and the other does not.
    jax.devices()
    team.gather("here")
    parallel.connect_devices(parallel.make_mesh())
    return team


def _check_port(coordinator):
    """JAX crashes where the port is taken."""
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
    """Say a last line when JAX aborts the process from C++, as it does at once when the coordinator is gone."""
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

    # Python's own handlers run in the main thread, which never gets there.
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    ctypes.CDLL(None).signal(signal.SIGABRT, _abort_handler)


def before_death(function) -> None:
    """Call `function()` before the process ends because of another one, to finish what needs no other process."""
    global _before_death
    _before_death = function


def _before_death():
    pass


_abort_handler = None  # kept, since C holds no reference
_AGAIN = "start the same command again, it continues from the last checkpoint"


def _die(message: str, exit_code: int = GONE):
    """End the process from any thread."""
    # In a thread of its own, since it may never return.
    last = threading.Thread(target=_before_death, daemon=True)
    last.start()
    last.join(LAST_SECONDS)
    console.restore()
    os.write(2, f"error: {message}\n".encode())
    os._exit(exit_code)


class _Team:
    """The processes, as one of them sees them through the key-value store of JAX's coordinator."""

    def __init__(self, job: Job, client, timeout: float):
        self._me, self._size, self._client = job.process, job.processes, client
        self._patience = timeout
        self._decisions = 0
        self._hosts = {}
        self._seen = ""  # what of another's end came to light here
        self._failed = False  # this process itself
        self._ended = threading.Event()
        # Stopping: how often the main thread has asked, and from which time on the answer is yes.
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
        """Wait for a value: as long as the processes live, which the watch sees to."""
        while True:
            try:
                return self._client.blocking_key_value_get(key, 500)  # ms, between which signals get through
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def agreed_stop(self) -> int | None:
        with self._condition:
            # While the processes compare how often each has asked, none of them goes on.
            self._condition.wait_for(lambda: not self._counting)
            self._asked += 1
            return self._signal if self.stop_at is not None and self._asked >= self.stop_at else None

    # The end.

    def leave(self):
        """Wait until all processes are done; from here on nobody is missed."""
        self.gather("done")
        self._ended.set()
        self._thread.join()

    def fail(self, error: BaseException):
        """Tell the others, unless one of them is the cause."""
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
        """A lost connection shows before the watch has given up the process behind it, and ended this one."""
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
            except Exception:  # whatever it is, there is no knowing any more how the others are
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
        """Once any process asks to stop: all count how often they have asked, and stop the time after the most."""
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
                self._signal = int(answers[0].split()[1])  # that process 0 has seen, should there be several
                self._counting = False
                self._condition.notify_all()


_WATCH = "jaxrobust/watch/"
