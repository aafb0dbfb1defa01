"""SIGTERM and Ctrl-C, on any of the processes: finish the step, save, say so, exit."""

import os
import signal
import threading
import time

from jaxrobust import hosts

PATIENCE_SECONDS = 2  # a Ctrl-C sooner after the first one is the same one


class Interrupted(Exception):
    """The run was asked to stop and has saved what it needs to go on."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number  # as a shell reports a process that the signal ended


class StopRequest:
    """Remembers a SIGTERM or SIGINT instead of dying of it, while used as a context.

    It is true once the process was asked to stop. Of several processes, one that was asked is enough; they agree on
    where to stop, so all of them have to look at the same places, as often as each other. One in the context of another
    tells that one, which goes by it if the inner one was asked too late to do so, and starts with what that one knows.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal_number: int | None = None  # that all stop for
        self._received: int | None = None
        self._before = {}
        self._outer: StopRequest | None = None  # in whose context this one is

    def __bool__(self) -> bool:
        self.signal_number = hosts.agreed_stop(self._received)
        return self.signal_number is not None

    def is_near(self) -> bool:
        """Whether to look now rather than to go on waiting; may be asked anywhere."""
        return hosts.stop_is_near(self._received)

    def _receive(self, signal_number, frame):
        now = time.monotonic()
        if self._received is None:
            self._received, self._since = signal_number, now
            hosts.request_stop(signal_number)
            if self._outer is not None:
                self._outer._receive(signal_number, frame)
        elif signal_number == signal.SIGINT and now - self._since > PATIENCE_SECONDS:
            # Somebody has waited long enough: let it kill. Schedulers repeat SIGTERM, and have SIGKILL for that.
            self._restore()
            os.kill(os.getpid(), signal_number)

    def _restore(self):
        while self._before:
            signal.signal(*self._before.popitem())

    def __enter__(self):
        # Python lets only the main thread handle signals; elsewhere the caller has to do without.
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
