"""Files that are never left half written: atomic replacement, and a log of JSON records, one a line."""

import contextlib
import fcntl
import importlib.util
import json
import math
import os
import pathlib
import threading
import zipfile
from collections.abc import Callable, Container

import numpy as np

from jaxrobust.errors import UserError


def write_atomically(path, content: bytes | str) -> None:
    """Replace `path` by a file with that content; a reader sees either the old file or the new one."""
    path = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    # open() sets the permissions of the user's umask, mkstemp would not.
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
    # The rename is durable only once the folder is synced.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(path, *, wait: bool = True):
    """Hold an exclusive lock on `path`. It is released when the context, or the process, ends.

    Args:
        path: a file used for nothing else; created if missing.
        wait: until another process releases the lock.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
    """
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def read_json(path):
    """The content of a JSON file, or None if there is no file.

    Raises:
        UserError: the file is not valid JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); repair or remove it") from error


def read_records(path) -> list[dict]:
    """The records of a JSON-lines file, see `RecordLog.read`."""
    return RecordLog(path).read()


def append_record(path, record: dict, key: tuple[str, ...]) -> bool:
    """Append a record unless one with the same key exists, see `RecordLog.append`."""
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
        """The wanted records, in order. An incomplete last line is left out: another process may be writing it.

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
        """Append a record as one line, unless a record with equal values in the `key` fields exists.

        Safe if other processes append at the same time, and if a process was killed while it wrote: an incomplete last
        line is removed first.

        Returns:
            Whether the record was appended.

        Raises:
            UserError: a complete line is not valid JSON.
            ValueError: the record holds nan or infinity, which JSON does not have.
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
        if os.fstat(file.fileno()).st_size < self._end:  # the file was replaced or edited
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
                raise UserError(f"{problem}; repair or remove the line") from error
        self._records += filter(self._wanted, added)
        self._lines += len(added)
        self._end += len(content)


def imported(path):
    """Import a Python file from any folder. Exceptions of its code are passed on."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def user_cache() -> pathlib.Path:
    """The cache folder of this user, shared by all runs; everything in it can be recreated."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxrobust"


def nullable(value):
    """JSON data with None for nan and infinity, which JSON does not have. Arrays become lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: nullable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [nullable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value) -> str:
    """JSON text in the format of the project's files."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def flatten(values: dict, prefix: str = "") -> dict:
    """Nested dicts as one dict with dotted names."""
    flat = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_npz(path, names: Container[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or those of `names` that it has.

    Nothing is allocated for an array before the shape in its header is found to agree with the size of its content, and
    to fit into this machine's memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an .npz file of plain arrays.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is not a regular file")
    left = memory()
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if names is None or name in names:
                    left -= entry.file_size
                    if left < 0 or entry.flag_bits & 1:
                        why = "encrypted" if entry.flag_bits & 1 else "larger than this machine's memory"
                        raise ValueError(f"{name!r} is {why}")
                    with archive.open(entry) as file:
                        _check_header(file, entry.file_size, name)
                    with archive.open(entry) as file:
                        arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # zipfile and its decompressors raise many kinds
        raise ValueError(error) from error
    return arrays


def _check_header(file, size: int, name: str) -> None:
    """Raises ValueError unless the header of an .npy file of that size is of an array that it can hold."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"{name!r} is of version {version}")
    shape, _, dtype = read_header[version](file)
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds Python objects")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not dtype.itemsize or expected != size - file.tell():
        raise ValueError(f"{name!r} has {size - file.tell()} bytes, for shape {shape} of {dtype}")
