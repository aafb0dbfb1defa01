"""The commands: one thin file each, and `front_end.py`, which reads flags and config and shows errors in one line."""

import os
import signal
import sys


def run(arguments: list[str] | None = None) -> None:
    """The entry point, see `front_end.run`. Ctrl-C ends it in one line from the first import on."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGINT, end_at_once)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    from jaxrobust.commands import front_end

    front_end.run(arguments)


def end_at_once(*_) -> None:
    """The handler of Ctrl-C where there is nothing to save or to clean up."""
    os.write(2, b"interrupted\n")
    os._exit(128 + signal.SIGINT)
