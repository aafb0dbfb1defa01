"""Files that are never half written: whole-file replacement, and lines appended to a log of JSON records."""

import contextlib
import fcntl
import importlib.util
import json
import math
import os
import pathlib
import threading

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
    try:
        content = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        return []
    return _records(path, content)


def _records(path, content: bytes) -> list[dict]:
    """The records of the whole lines."""
    records = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number} is not valid JSON ({error}); mend or remove the line") from error
    return records


def append_record(path, record: dict, key: tuple[str, ...]) -> bool:
    """Append a record as one line, unless one with equal values of the `key` fields is there.

    Safe against other processes doing the same, and against having been killed in the middle: a torn last line is cut
    off first.

    Returns:
        Whether the record was appended.
    """
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        identity = [record[name] for name in key]
        if any([there.get(name) for name in key] == identity for there in _records(path, content)):
            return False
        file.truncate(content.rfind(b"\n") + 1)
        # allow_nan=False: NaN is no JSON, and a figure that is not defined is null.
        file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        return True


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
