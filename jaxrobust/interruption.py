"""SIGTERM and Ctrl-C: finish the step, save, say so, exit."""

import os
import signal
import threading
import time

PATIENCE_SECONDS = 2  # schedulers and impatient fingers send a signal twice


class Interrupted(Exception):
    """The run was asked to stop and has saved what it needs to go on."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number  # as a shell reports a process that the signal ended


class StopRequest:
    """Remembers a SIGTERM or SIGINT instead of dying of it, while used as a context."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal_number: int | None = None
        self._before = {}

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def _receive(self, signal_number, frame):
        now = time.monotonic()
        if self.signal_number is None:
            self.signal_number, self._since = signal_number, now
        elif now - self._since > PATIENCE_SECONDS:
            # Asked again: let it kill.
            self._restore()
            os.kill(os.getpid(), signal_number)

    def _restore(self):
        while self._before:
            signal.signal(*self._before.popitem())

    def __enter__(self):
        # Python lets only the main thread handle signals; elsewhere the caller has to do without.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_):
        self._restore()
