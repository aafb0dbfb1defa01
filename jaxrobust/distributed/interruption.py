"""Orderly stop on SIGTERM or Ctrl-C, received by any of the processes: finish the step, save, report it, exit."""

import itertools
import os
import signal
import threading
import time

import jax
from jax.experimental import multihost_utils

PATIENCE_SECONDS = 2  # a second Ctrl-C within this time counts as the first one

_asked = itertools.count(1)  # how often this process has asked JAX whether all processes stop


class Interrupted(Exception):
    """The run was asked to stop, and has saved what it needs to continue."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number  # the exit code a shell reports for a process ended by that signal


class StopRequest:
    """Records a SIGTERM or SIGINT while used as a context, instead of letting it end the process.

    It is true once a stop was requested. A nested StopRequest forwards its signal to the outer one and inherits any
    signal already received.

    In several processes, JAX's preemption service receives SIGTERM, on which all of them stop at the same place; so all
    must test the truth value at the same places, equally often. A handler of our own would replace JAX's, so Ctrl-C in
    one of them is sent on as SIGTERM.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)
    _all_stop = False  # as JAX has said; it says so once only

    def __init__(self):
        self.signal_number: int | None = None  # on which to stop
        self._since = 0.0
        self._before = {}
        self._outer: StopRequest | None = None  # the StopRequest this one is nested in

    def __bool__(self) -> bool:
        if jax.distributed.is_initialized():
            if not StopRequest._all_stop:
                StopRequest._all_stop = multihost_utils.reached_preemption_sync_point(next(_asked))
            if StopRequest._all_stop:
                self.signal_number = signal.SIGTERM
            return StopRequest._all_stop
        return self.signal_number is not None

    def _receive(self, signal_number, frame):
        now = time.monotonic()
        if self.signal_number is None:
            self.signal_number, self._since = signal_number, now
            if jax.distributed.is_initialized():
                self.signal_number = signal.SIGTERM
                os.kill(os.getpid(), signal.SIGTERM)
            elif self._outer is not None:
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
            numbers = (signal.SIGINT,) if jax.distributed.is_initialized() else self.SIGNALS
            self._before = {number: signal.signal(number, self._receive) for number in numbers}
            around = getattr(self._before[signal.SIGINT], "__self__", None)
            if isinstance(around, StopRequest):
                self._outer = around
                self.signal_number, self._since = around.signal_number, around._since
        return self

    def __exit__(self, *_):
        self._restore()
