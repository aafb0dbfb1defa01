"""Orderly stop on SIGTERM or Ctrl-C, received by any of the processes: finish the step, save, report it, exit."""

import os
import signal
import threading
import time

from jaxrobust.distributed import hosts

PATIENCE_SECONDS = 2  # a second Ctrl-C within this time counts as the first one


class Interrupted(Exception):
    """The run was asked to stop, and has saved what it needs to continue."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number  # the exit code a shell reports for a process ended by that signal


class StopRequest:
    """Records a SIGTERM or SIGINT while used as a context, instead of letting it end the process.

    It is true once a stop was requested. With several processes, a signal to one of them is enough. They agree on where
    to stop, so all of them must test it at the same places, equally often. A nested StopRequest forwards its signal to
    the outer one and inherits any signal already received.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal_number: int | None = None  # on which all processes stop
        self._received: int | None = None
        self._before = {}
        self._outer: StopRequest | None = None  # the StopRequest this one is nested in

    def __bool__(self) -> bool:
        self.signal_number = hosts.agreed_stop(self._received)
        return self.signal_number is not None

    def is_near(self) -> bool:
        """Whether a wait should end now because a stop may follow; unlike the truth value, callable at any time."""
        return hosts.stop_is_near(self._received)

    def _receive(self, signal_number, frame):
        now = time.monotonic()
        if self._received is None:
            self._received, self._since = signal_number, now
            hosts.request_stop(signal_number)
            if self._outer is not None:
                self._outer._receive(signal_number, frame)
        elif signal_number == signal.SIGINT and now - self._since > PATIENCE_SECONDS:
            # A second Ctrl-C ends the process at once. A repeated SIGTERM does not: schedulers send several.
            self._restore()
            os.kill(os.getpid(), signal_number)

    def _restore(self):
        while self._before:
            signal.signal(*self._before.popitem())

    def __enter__(self):
        # Only the main thread may set signal handlers; in other threads this does nothing.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
            around = getattr(self._before[signal.SIGTERM], "__self__", None)
            if isinstance(around, StopRequest):
                self._outer = around
                if around._received is not None:
                    self._received, self._since = around._received, around._since
        return self

    def __exit__(self, *_):
        self._restore()
