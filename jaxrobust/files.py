"""Files that are never half written: whole-file replacement, and lines appended to a log of JSON records."""

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile


def write_atomically(path, content: bytes | str) -> None:
    """Replace `path` by a file with that content; a reader sees the old file or the new one."""
    path = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the permissions that open() would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_json(path):
    """The JSON file's content, or None where there is no file."""
    try:
        return json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        return None


def read_records(path) -> list[dict]:
    """The records of a JSON-lines file, in order; an incomplete last line, being written or torn, is left out."""
    try:
        content = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        return []
    whole = content[: content.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


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
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            file.truncate(len(whole))
        identity = [record[name] for name in key]
        if any([there.get(name) for name in key] == identity for there in map(json.loads, whole.splitlines())):
            return False
        # allow_nan=False: NaN is no JSON, and a figure that is not defined is null.
        file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        return True


def to_json(value) -> str:
    """As the project's JSON files are written."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
