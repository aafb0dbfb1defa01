"""Images that stay in their TFRecord files until they are needed.

    index = load_index(files, "tfds:imagenet2012", progress)  # made once, then read from the user's cache
    images = RecordImages.of("tfds:imagenet2012", files, index, (224, 224, 3), resized=True)
    images[5:9]                                               # a selection: nothing is read
    np.asarray(images[5:9])                                   # read and decoded: [4, 224, 224, 3] uint8

TFRecord files can only be read from front to back, but epochs are read in random order. The index holds the position
and the label of each record, so any example can be read at any time, and labels are known without the images.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import re
import struct
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from jaxrobust import files as files_lib
from jaxrobust.data import pixels
from jaxrobust.errors import FieldError

READERS = 16  # parallel reads; they wait for a disk or a network, not for a processor
CHUNK = 32  # records that one of them reads in one go
# A record is its length (8 bytes), a checksum of that (4), the payload and a checksum of it (4).
_HEADER, _FOOTER = 12, 4
# TensorFlow quotes bytes that it cannot parse, and Python then fails to decode the message of the error.
ERRORS = (tf.errors.OpError, UnicodeDecodeError)
_FORMAT = 1  # of the cached index: another number when its content or meaning changes


class Index(NamedTuple):
    """The positions of the records of a split: `counts[f]` records in file f, one after the other.

    Attributes:
        counts: [files] int64.
        lengths: [N] int64, bytes of each payload.
        labels: [N] int64.
    """

    counts: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RecordImages:
    """Represents an array [N, H, W, C] uint8 of decoded images. Indexing gives another one; `np.asarray` decodes.

    Attributes:
        name: `data.name`, for the errors.
        files: TFRecord files with one tf.Example for each image.
        file: [N] int32, index of the file that holds each record.
        offset: [N] int64, where its payload begins.
        length: [N] int64, bytes of the payload.
        image_shape: (H, W, C) after decoding.
        resized: whether images are resized to this shape; if not, they have it in the files.
    """

    name: str
    files: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    image_shape: tuple[int, int, int]
    resized: bool

    dtype = np.dtype(np.uint8)
    ndim = 4

    @classmethod
    def of(cls, name: str, files: Sequence[str], index: Index, image_shape, resized: bool) -> "RecordImages":
        """All records of an index."""
        file = np.repeat(np.arange(len(files), dtype=np.int32), index.counts)
        ends = np.cumsum(index.lengths + _HEADER + _FOOTER)
        file_ends = np.concatenate([[0], ends])[np.cumsum(index.counts)]
        file_starts = np.concatenate([[0], file_ends[:-1]])
        offset = ends - _FOOTER - index.lengths - file_starts[file]
        return cls(name, tuple(files), file, offset, index.lengths, tuple(image_shape), resized)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.image_shape)

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: np.ndarray | slice | tuple) -> "RecordImages":
        if isinstance(index, tuple):  # jax indexes all dimensions when it splits an array over devices
            index, *rest = index
            if any(part != slice(None) for part in rest):
                raise TypeError("whole images are selected, not parts of them")
        if np.ndim(index) == 0 and not isinstance(index, slice):
            raise TypeError("select images by a slice, an array of indices or a mask; np.asarray then decodes them")
        return dataclasses.replace(self, file=self.file[index], offset=self.offset[index], length=self.length[index])

    def with_shape(self, image_shape: tuple[int, int, int]) -> "RecordImages":
        """The same images decoded to another shape."""
        return dataclasses.replace(self, image_shape=image_shape)

    def first_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the first image in the files.

        Raises:
            FieldError: it cannot be read.
        """
        if not len(self):
            return (1, 1, self.image_shape[2])
        try:
            return tuple(pixels.decode_whole(pixels.encoded(self[:1].payloads()[0]), self.image_shape[2]).shape)
        except ERRORS as error:
            raise unreadable(self.name, error) from error

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """The decoded images, resized as for evaluation.

        Raises:
            FieldError: a file has changed or is damaged.
        """
        if copy is False:
            raise ValueError("decoding makes a new array")
        chunks = [self[start : start + CHUNK] for start in range(0, len(self), CHUNK)]
        with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
            payloads = [payload for part in pool.map(RecordImages.payloads, chunks) for payload in part]
        try:
            images = _decoder(self.image_shape, self.resized)(tf.constant(payloads, tf.string, [len(self)])).numpy()
        except ERRORS as error:
            raise unreadable(self.name, error) from error
        return images if dtype is None else images.astype(dtype, copy=False)

    def payloads(self) -> list[bytes]:
        """The serialised tf.Examples, as they are in the files.

        Raises:
            FieldError: a file has changed since the index was made, or cannot be read.
        """
        return [
            self._payload(self.files[file], int(offset), int(length))
            for file, offset, length in zip(self.file, self.offset, self.length, strict=True)
        ]

    def _payload(self, file: str, offset: int, length: int) -> bytes:
        # Files are not kept open: a large set has more files than a process may open.
        try:
            if _is_remote(file):
                with tf.io.gfile.GFile(file, "rb") as handle:
                    handle.seek(offset - _HEADER)
                    record = handle.read(_HEADER + length)
            else:
                handle = os.open(file, os.O_RDONLY)
                try:
                    record = os.pread(handle, _HEADER + length, offset - _HEADER)
                finally:
                    os.close(handle)
        except (OSError, *ERRORS) as error:
            raise unreadable(self.name, error) from error
        # A record begins with the length of its payload, in 8 bytes.
        if len(record) < _HEADER + length or int.from_bytes(record[:8], "little") != length:
            raise FieldError("data.name", self.name, f"{file!r} has changed", "restore it and start again")
        return record[_HEADER:]


@functools.cache
def _decoder(image_shape, resized: bool) -> Callable:
    """Serialised tf.Examples [N] -> images [N, H, W, C], compiled once, the images decoded in parallel."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(payloads):
        return tf.map_fn(
            lambda payload: pixels.decode(pixels.encoded(payload), image_shape, resized),
            payloads,
            fn_output_signature=tf.TensorSpec(image_shape, tf.uint8),
            parallel_iterations=2 * cores(),
        )

    return decode


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_index(files: Sequence[str], name: str, progress: Callable) -> Index:
    """The index of TFRecord files: from the user's cache, or made by reading all files once.

    Reading checks every record's checksum. The cached index is made again when the size or the time of a file changes.

    Args:
        files: TFRecord files, local or on a file system that TensorFlow supports, such as gs://.
        name: `data.name`, for the errors.
        progress: (title, total, unit) -> context that gives advance(amount), as `console.progress`.

    Raises:
        FieldError: a file is missing or damaged, or a record is not a tf.Example with a label.
    """
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        try:
            stamps = np.array([(s.length, s.mtime_nsec) for s in pool.map(tf.io.gfile.stat, files)], np.int64)
        except ERRORS as error:
            raise unreadable(name, error) from error
    digest = hashlib.sha256(repr((_FORMAT, [os.path.abspath(f) if not _is_remote(f) else f for f in files])).encode())
    path = files_lib.user_cache() / f"records-{digest.hexdigest()[:32]}.npz"
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # One process of a machine reads the files, the others wait for it.
            _await_lock(stack, path.with_suffix(".lock"), name, progress)
            writable = True
        except OSError:  # no home folder, or a full disk: then the files are read each time
            writable = False
        index = _read_index(path, stamps)
        if index is None:
            index = _scan(files, stamps[:, 0], name, progress)
            if writable:
                content = io.BytesIO()
                np.savez(content, stamps=stamps, **index._asdict())
                with contextlib.suppress(OSError):
                    files_lib.write_atomically(path, content.getvalue())
    return index


def _await_lock(stack: contextlib.ExitStack, path: pathlib.Path, name: str, progress: Callable) -> None:
    try:
        stack.enter_context(files_lib.locked(path, wait=False))
    except BlockingIOError:
        with progress(f"{name}: waiting for another process to index its files", 1, "index"):
            stack.enter_context(files_lib.locked(path))


def _read_index(path: pathlib.Path, stamps: np.ndarray) -> Index | None:
    """The index in the cache; None if it is missing, damaged, or of files that have changed since."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if np.array_equal(content["stamps"], stamps):
                return Index(content["counts"], content["lengths"], content["labels"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error):
        pass
    return None


def _scan(files: Sequence[str], sizes: np.ndarray, name: str, progress: Callable) -> Index:
    """Reads all records of all files, several files at a time."""

    def scan_file(file: str) -> tuple[np.ndarray, np.ndarray]:
        # Without num_parallel_calls: the files are already read in parallel.
        examples = tf.data.TFRecordDataset(file).batch(CHUNK).map(_length_and_label)
        try:
            parts = list(examples.as_numpy_iterator())
        except ERRORS as error:
            raise unreadable(name, error, file) from error
        lengths, labels = zip(*parts, strict=True) if parts else ([np.empty(0)], [np.empty(0)])
        return np.concatenate(lengths).astype(np.int64), np.concatenate(labels).astype(np.int64)

    lengths, labels = [], []
    with (
        progress(f"{name}: indexing {len(files)} files, once", sizes.sum() / 1e6, "MB") as advance,
        concurrent.futures.ThreadPoolExecutor(cores()) as pool,
        contextlib.closing(
            pool.map(scan_file, files)
        ) as scanned,  # after an error, files not yet started are cancelled
    ):
        for file, size, (file_lengths, file_labels) in zip(files, sizes, scanned, strict=True):
            if (file_lengths + _HEADER + _FOOTER).sum() != size:
                raise FieldError("data.name", name, f"{file!r} is not a plain TFRecord file", "prepare it again")
            lengths.append(file_lengths)
            labels.append(file_labels)
            advance(size / 1e6)
    return Index(np.array([len(part) for part in lengths]), np.concatenate(lengths), np.concatenate(labels))


def _length_and_label(payloads):
    features = tf.io.parse_example(payloads, {"label": tf.io.FixedLenFeature([], tf.int64)})
    return tf.strings.length(payloads), features["label"]


def _is_remote(file: str) -> bool:
    return "://" in file


def unreadable(name: str, error: Exception, file: str = "") -> FieldError:
    """The error for a data set of which a file cannot be read or decoded."""
    # TensorFlow's messages begin with a traceback of the graph and name its nodes in brackets.
    message = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\]", "", str(getattr(error, "message", error)))
    message = message.strip().rpartition("\n\n")[2]
    different = re.search(r"\[([\d,]+)\] is not compatible with expected shape \[([\d,]+)\]", message)
    if different is not None:
        problem = "keeps the sizes of images, but their shapes are {} and {}".format(*different.groups())
        return FieldError("data.image_size", 0, problem, "set it to the side length to resize them to")
    if isinstance(error, UnicodeDecodeError):
        message = "a record is not a tf.Example"
    reason = textwrap.shorten(f"{type(error).__name__}: {message}", 300, placeholder=" ...")
    what = f"{file!r} " if file else ""
    return FieldError("data.name", name, f"{what}cannot be read ({reason})", "prepare it again")
