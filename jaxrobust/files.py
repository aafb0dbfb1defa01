"""Files that are never left half written, and whose content is checked when it is read.

Atomic replacement, JSON of a type that msgspec knows, and a log of JSON records, one a line.
"""

import contextlib
import errno
import fcntl
import importlib.util
import json
import math
import os
import pathlib
import re
import stat
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Container
from typing import Any

import msgspec

from jaxrobust import formatting
from jaxrobust.errors import FieldError, UserError

LARGEST = 2**31  # bytes of a file that is read at once, and of the arrays in one
LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes that Linux and its file systems allow


def path(given, field: str) -> pathlib.Path:
    """A path as the user has named it. Raises FieldError, which names the `field`, if there can be no such path."""
    if not isinstance(given, str | os.PathLike):
        raise FieldError(field, given, "is no path", "give one, as a text")
    text, problem, remedy = os.fspath(given), None, "give another"
    try:
        longest = max(map(len, os.fsencode(text).split(b"/")))
        if not text.strip():
            problem, remedy = "is empty", "give a path; . is the current folder"
        elif "://" in text:
            problem, remedy = "is not a path of a mounted file system", "mount the storage, and give its path"
        elif "\0" in text:
            problem = "contains a zero byte"
        elif longest > LONGEST_NAME or len(os.fsencode(text)) >= LONGEST_PATH:
            problem = f"is too long: {longest} bytes in a name" if longest > LONGEST_NAME else "is too long"
            remedy = f"give names of up to {LONGEST_NAME} bytes, and fewer than {LONGEST_PATH} altogether"
        else:
            text.encode()
    except UnicodeEncodeError:
        problem, remedy = "is not UTF-8", "give a path in UTF-8"
    if problem:
        raise FieldError(field, text, problem, remedy)
    return pathlib.Path(text)


def folder(given, field: str) -> pathlib.Path:
    """A folder that is there, or can be made: as `path`; also raises FieldError if something else is there."""
    where = path(given, field)
    try:
        if not where.is_dir() and (where.exists() or where.is_symlink()):
            raise FieldError(field, str(given), "is not a folder", "give another one")
    except OSError as error:
        raise FieldError(field, str(given), f"cannot be read ({error.strerror})", "give another one") from error
    return where


def writable(given, field: str) -> pathlib.Path:
    """As `folder`; also raises FieldError if nothing can be written there, for which it is not made."""
    where = folder(given, field)
    try:
        there = next(parent for parent in (where, *where.absolute().parents) if parent.exists())
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=there))
    except OSError as error:
        raise FieldError(field, str(given), f"cannot be written to ({error.strerror})", "give another one") from error
    return where


class NotWritten(UserError, OSError):
    """A file or a folder cannot be written; the attributes of OSError say which, and why."""

    def __str__(self) -> str:
        has_no_room = self.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room" if has_no_room else "let it be written, or give another folder"
        problem = f"{self.filename}: cannot be written ({self.strerror})"
        return formatting.clean(f"{problem}; {remedy}, and start the same command again")


@contextlib.contextmanager
def writing(path):
    """Raise errors of writing inside this context as NotWritten, of the path."""
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        raise NotWritten(error.errno, error.strerror or str(error), str(path)) from error


def write_atomically(path, content: bytes | str) -> None:
    """Replace `path` by a file with that content, unless it has it; a reader sees either the old file or the new one.

    Raises:
        NotWritten: the disk is full or read-only, for example; then the old file stays.
    """
    path = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    # open() sets the permissions of the user's umask, mkstemp would not.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # for `clean`
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


def clean(*folders) -> None:
    """Remove the files that processes killed in `write_atomically` have left, if they can be removed."""
    for folder in map(pathlib.Path, folders):
        for path in folder.glob(".*") if folder.is_dir() else ():
            if re.fullmatch(r"\..+\.\d+\.\d+", path.name):
                # A process that is alive holds the lock, on whatever host it is, or is about to take it.
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    about = os.fstat(file.fileno())
                    if about.st_size or time.time() - about.st_mtime > 60:
                        path.unlink()


@contextlib.contextmanager
def locked(path, *, wait: bool = True):
    """Hold an exclusive lock on `path`. It is released when the context, or the process, ends.

    Args:
        path: a file used for nothing else; created if missing.
        wait: until another process releases the lock.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
    """
    with writing(path):
        file = open(path, "ab")  # noqa: SIM115
    with file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def read_bytes(path, start: int = 0) -> bytes | None:
    """The content of a file, from the byte `start` on; None if there is no file.

    Raises:
        UserError: it is no ordinary file, cannot be read, or has more than `LARGEST` bytes.
    """
    try:
        # A pipe would block without O_NONBLOCK, which has no effect on ordinary files.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{path} is not an ordinary file; move it away")
            if found.st_size - start > LARGEST:
                raise UserError(f"{path} has {found.st_size:,} bytes, more than {LARGEST:,}; remove it or restore it")
            file.seek(start)
            return file.read(LARGEST)
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, and should be a file; move it away") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}); correct its permissions, or give another folder") from error


def read_json(path, schema: Any = Any, check: Callable[[Any], str | None] = lambda content: None) -> Any:
    """The content of a JSON file, or None if there is no file.

    Args:
        schema: its type, which msgspec checks; it may have keys that a TypedDict does not name.
        check: content -> what is wrong with it beyond the types, as a clause; None if nothing is.

    Raises:
        UserError: the file cannot be read, is not valid JSON, or not of the `schema`.
    """
    content = read_bytes(path)
    return None if content is None else parsed(content, path, schema, check, "repair or remove it")


def parsed(content: bytes, where, schema: Any, check: Callable[[Any], str | None], remedy: str) -> Any:
    """JSON text as data; the other arguments and the errors as of `read_json`, `where` and `remedy` for messages."""
    try:
        value = msgspec.json.decode(content)
        msgspec.convert(value, schema)  # checks it; what comes back would lack the keys that a TypedDict does not name
        problem = check(value)
    except msgspec.ValidationError as error:
        said, _, place = str(error).replace("`", "").partition(" - at ")
        problem = f"{place or '$'}: {said[0].lower()}{said[1:]}"
    except (msgspec.DecodeError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON ({error}); {remedy}") from error
    if problem:
        raise UserError(f"{where} does not hold what it should ({problem}); {remedy}")
    return value


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
        schema, check: of each record, see `read_json`.
    """

    def __init__(
        self,
        path,
        wanted: Callable[[dict], bool] = lambda record: True,
        *,
        schema: Any = dict[str, Any],
        check: Callable[[dict], str | None] = lambda record: None,
    ):
        self._path, self._wanted, self._schema, self._check = pathlib.Path(path), wanted, schema, check
        self._forget()

    def _forget(self):
        self._records = []  # those that are wanted
        self._lines, self._end = 0, 0  # how many complete lines were parsed, and the byte after the last of them
        self._file = None  # which file that is

    def read(self) -> list[dict]:
        """The wanted records, in order. An incomplete last line is left out: another process may be writing it.

        Raises:
            UserError: the file cannot be read, or another line is not valid JSON or not of the schema.
        """
        self._read_on()
        return list(self._records)

    def append(self, record: dict, key: tuple[str, ...]) -> bool:
        """Append a record as one line, unless a record with equal values in the `key` fields exists.

        Safe if other processes append at the same time, and if a process was killed while it wrote: an incomplete last
        line is removed first.

        Returns:
            Whether the record was appended.

        Raises:
            UserError: as `read`.
            ValueError: the record holds nan or infinity, which JSON does not have.
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._locked() as file:
            self._read_on()
            identity = [record[name] for name in key]
            if any([there.get(name) for name in key] == identity for there in self._records):
                return False
            file.truncate(self._end)
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._end)
                raise
            return True

    def keep(self, belongs: Callable[[dict], bool]) -> int:
        """Remove the records that do not belong, at once; returns their number. Others may append at the same time."""
        if all(map(belongs, self.read())):
            return 0
        with self._locked():
            self._read_on()
            kept = [record for record in self._records if belongs(record)]
            write_atomically(self._path, "".join(json.dumps(record) + "\n" for record in kept))
            return len(self._records) - len(kept)

    @contextlib.contextmanager
    def _locked(self):
        """The file, unbuffered, with an exclusive lock on it."""
        with writing(self._path), contextlib.ExitStack() as stack:
            while True:
                file = stack.enter_context(open(self._path, "a+b", buffering=0))
                fcntl.flock(file, fcntl.LOCK_EX)
                # Else `keep` has replaced it meanwhile.
                if self._path.exists() and os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                    break
            yield file

    def _read_on(self):
        """Parse the complete lines that were added since the last call."""
        with contextlib.suppress(OSError):  # the reader says what is wrong
            about = os.stat(self._path)
            if about.st_size < self._end or about.st_ino != self._file:  # the file was replaced or edited
                self._forget()
                self._file = about.st_ino
        content = read_bytes(self._path, self._end)
        if content is None:
            return self._forget()
        content = content[: content.rfind(b"\n") + 1]
        added = [
            parsed(line, f"{self._path}, line {number}", self._schema, self._check, "repair or remove the line")
            for number, line in enumerate(content.split(b"\n")[:-1], start=self._lines + 1)
        ]
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


def read_npz(file, names: Container[str] | None = None) -> dict:
    """The arrays of an .npz file, a path or an open file, or those of `names` that it has.

    Nothing is allocated for an array before the shape in its header is found to agree with the size of its content, and
    to fit into this machine's memory.

    Raises:
        ValueError: it is not an .npz file of plain arrays.
    """
    import numpy as np  # here: the command line starts without it

    left = memory()
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if names is None or name in names:
                    left -= entry.file_size
                    if left < 0 or entry.flag_bits & 1:
                        why = "encrypted" if entry.flag_bits & 1 else "larger than this machine's memory"
                        raise ValueError(f"{name!r} is {why}")
                    with archive.open(entry) as content:
                        _check_header(content, entry.file_size, name)
                    with archive.open(entry) as content:
                        arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
    except ValueError:
        raise
    except Exception as error:  # zipfile and its decompressors raise many kinds
        raise ValueError(error) from error
    return arrays


def _check_header(file, size: int, name: str) -> None:
    """Raises ValueError unless the header of an .npy file of that size is of an array that it can hold."""
    import numpy as np

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
