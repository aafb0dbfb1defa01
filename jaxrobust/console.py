"""Output for a person: messages, tables, and progress with rate and remaining time; all of it cleaned, see `clean`.

On a terminal, progress is a bar; in a log file, it is one line every `LINE_SECONDS`.
"""

import contextlib
import sys
import time
import traceback

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from jaxrobust.formatting import clean

LINE_SECONDS = 30
_speaks = True


class _CleanConsole(Console):
    """Prints texts cleaned, whatever they are part of, and never takes them for markup."""

    def render(self, renderable, options=None):
        for text, style, control in super().render(renderable, options):
            lines = text if control else "\n".join(map(clean, text.split("\n")))
            yield Segment(lines, style, control)


# A log file has no width; without this, rich would wrap tables at its fallback of 80 columns.
_console = _CleanConsole(stderr=True, highlight=False, markup=False, width=None if sys.stderr.isatty() else 160)


def speak(allowed: bool) -> None:
    """Set whether this process prints messages, tables and progress. With several processes only one does; all warn."""
    global _speaks
    _speaks = allowed


def speaks() -> bool:
    """Whether this process prints."""
    return _speaks


def say(message: str) -> None:
    """Print one message."""
    if _speaks:
        _console.print(clean(message), soft_wrap=True)


def warn(message: str) -> None:
    """Print one message that must not be overlooked."""
    _console.print(f"warning: {clean(message)}", style="yellow", soft_wrap=True)


def fail(message: str) -> None:
    """Print why the process ends, on its own error output, also where it does not speak."""
    print(f"error: {clean(message)}", file=sys.stderr)


def result(text) -> None:
    """Print what the process is for, such as the path of a page, in one line on its standard output."""
    print(clean(str(text)), flush=True)


def bug() -> None:
    """Print the traceback of the exception that is being handled."""
    print("\n".join(map(clean, traceback.format_exc().splitlines())), file=sys.stderr)


def show(renderable) -> None:
    """Print a rich object, for example a table."""
    if _speaks:
        _console.print(renderable)


def width() -> int:
    """Characters of a line."""
    return _console.width


def restore() -> None:
    """Restore the terminal (the hidden cursor) before the process ends in the middle of a progress bar."""
    if _console.is_terminal:
        _console.show_cursor(True)


@contextlib.contextmanager
def progress(title: str, total: int, unit: str, done: int = 0):
    """Show the progress of a long task. Yields advance(amount), to be called after each part.

    Args:
        title: name of the task.
        total, done: size of the task, and how much was done before, in the same units as `amount`.
        unit: name of the unit, for the displayed rate.
    """
    meter = _Bar(title, total, unit, done) if _console.is_terminal and _speaks else _Lines(title, total, unit, done)
    with meter:
        yield meter.advance


class _Lines:
    """A line every LINE_SECONDS."""

    def __init__(self, title, total, unit, done):
        self._title, self._total, self._unit, self._done = title, total, unit, done
        self._before, self._started = done, time.monotonic()
        self._next_line = self._started + LINE_SECONDS

    def advance(self, amount):
        self._done += amount
        now = time.monotonic()
        if now < self._next_line:
            return
        self._next_line = now + LINE_SECONDS
        rate = (self._done - self._before) / (now - self._started)
        left = (self._total - self._done) / rate
        share = self._done / self._total
        say(f"{self._title}: {share:.0%}, {_number(rate)} {self._unit}/s, {duration(left)} left")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class _Bar:
    """A moving bar, gone when the work is done."""

    def __init__(self, title, total, unit, done):
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=_console,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total, completed=done, rate="")
        self._unit = unit

    def advance(self, amount):
        self._progress.advance(self._task, amount)
        speed = self._progress.tasks[0].speed
        if speed:
            self._progress.update(self._task, rate=f"{_number(speed)} {self._unit}/s")

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """M:SS or H:MM:SS."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
