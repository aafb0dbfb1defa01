"""Files that are never half written: whole-file replacement, and lines appended to a log of JSON records."""

import contextlib
import fcntl
import importlib.util
import json
import math
import os
import pathlib
import threading
from collections.abc import Callable

from jaxrobust.errors import UserError


def write_atomically(path, content: bytes | str) -> None:
    """Replace `path` by a file with that content; a reader sees the old file or the new one."""
    path = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    # Unlike mkstemp, open() gives the permissions that the user's umask says.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The new name is on disk only when the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(path, *, wait: bool = True):
    """Keep other processes that do the same out; the lock ends with the context, or with the process.

    Args:
        path: a file for this purpose alone, made where there is none.
        wait: for the other process to be done.

    Raises:
        BlockingIOError: another process has the lock, and `wait` is false.
    """
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def read_json(path):
    """The JSON file's content, or None where there is no file.

    Raises:
        UserError: the file is no JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); mend or remove it") from error


def read_records(path) -> list[dict]:
    """The records of a JSON-lines file, in order; an incomplete last line, being written or torn, is left out.

    Raises:
        UserError: another line is no JSON.
    """
    return RecordLog(path).read()


def append_record(path, record: dict, key: tuple[str, ...]) -> bool:
    """Append a record unless one with the same key is there, see `RecordLog.append`."""
    return RecordLog(path).append(record, key)


class RecordLog:
    """A JSON-lines file to which several processes append records.

    Lines are never changed once they are complete, so each is parsed once: later calls parse only what was appended
    since, by whichever process.

    Args:
        wanted: which records to keep in memory; `read` returns these, and no others may be appended.
    """

    def __init__(self, path, wanted: Callable[[dict], bool] = lambda record: True):
        self._path, self._wanted = pathlib.Path(path), wanted
        self._forget()

    def _forget(self):
        self._records = []  # those that are wanted
        self._lines, self._end = 0, 0  # how many complete lines were parsed, and the byte after the last of them

    def read(self) -> list[dict]:
        """The wanted records, in order; an incomplete last line, which is being written or torn, is left out.

        Raises:
            UserError: another line is not valid JSON.
        """
        try:
            with open(self._path, "rb") as file:
                self._read_on(file)
        except FileNotFoundError:
            self._forget()
        return list(self._records)

    def append(self, record: dict, key: tuple[str, ...]) -> bool:
        """Append a record as one line, unless one with equal values of the `key` fields is there.

        Safe if other processes append at the same time, and if a process was killed while it wrote: an incomplete last
        line is removed first.

        Returns:
            Whether the record was appended.

        Raises:
            UserError: a complete line is not valid JSON.
            ValueError: the record holds nan or infinity, which JSON lacks.
        """
        with open(self._path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._read_on(file)
            identity = [record[name] for name in key]
            if any([there.get(name) for name in key] == identity for there in self._records):
                return False
            file.truncate(self._end)
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return True

    def _read_on(self, file):
        """Parse the complete lines that were added since the last call."""
        if os.fstat(file.fileno()).st_size < self._end:  # another file, or an edited one
            self._forget()
        file.seek(self._end)
        content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        added = []
        for number, line in enumerate(content.splitlines(), start=self._lines + 1):
            try:
                added.append(json.loads(line))
            except ValueError as error:
                problem = f"{self._path}, line {number} is not valid JSON ({error})"
                raise UserError(f"{problem}; mend or remove the line") from error
        self._records += filter(self._wanted, added)
        self._lines += len(added)
        self._end += len(content)


def imported(path):
    """The module that a Python file is, wherever it lies; whatever its code raises is raised."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def user_cache() -> pathlib.Path:
    """The folder for what can be made again, shared by all runs of this user."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxrobust"


def nullable(value):
    """JSON data without nan and infinity, which JSON has not: a figure that is not defined is null."""
    if isinstance(value, dict):
        return {name: nullable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [nullable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value) -> str:
    """As the project's JSON files are written."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def flatten(values: dict, prefix: str = "") -> dict:
    """Nested dicts as one dict with dotted names."""
    flat = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
