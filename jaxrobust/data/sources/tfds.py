"""Any image classification set of TensorFlow Datasets, in a fixed order: read into memory, or left in its files.

A prepared folder is read without a network. Otherwise TFDS downloads and prepares the set, which needs a network.
"""

import concurrent.futures
import contextlib
import difflib
import functools
import hashlib
import io
import os
import pathlib
import resource
import struct
import textwrap
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from absl import logging

from jaxrobust import files as files_lib
from jaxrobust.data import encoded
from jaxrobust.data.checks import RawDataset
from jaxrobust.data.dataset import Split
from jaxrobust.data.sources import no_progress
from jaxrobust.errors import FieldError

# After `encoded`, which sets TensorFlow up.
import tensorflow as tf  # isort: skip
import tensorflow_datasets as tfds  # isort: skip

READ_BATCH = 1024
_PROBE_HOSTS = 3
_PROBE_SECONDS = 5


def read(tfds_name: str, data_dir: str) -> RawDataset:
    """Reads the training and test images of a TFDS set.

    The test split is `test`. It is `validation` if TFDS has no `test`, as for imagenet_resized, or no labels for it, as
    for imagenet2012.

    Args:
        tfds_name: as for `tfds.load`: `cifar10`, `imagenet_resized/32x32`, `mnist:3.0.1`, or the name of a folder
            that `data_dir` holds.
        data_dir: folder of prepared sets; empty: `TFDS_DATA_DIR`, else TFDS's own default.

    Raises:
        FieldError: there is no such set, it is not prepared and cannot be, or it does not consist of images of one size
            with one label each.
    """
    return _raw_data_set(tfds_name, data_dir, _read_split, None)


def stream(tfds_name: str, data_dir: str, image_size: int, progress: Callable) -> RawDataset:
    """As `read`, but of a set stored as ArrayRecord files, whose images stay there until they are needed.

    A set that has to be prepared is prepared so; one that is stored in another format is a FieldError.

    Args:
        image_size: side of the square that images are resized to; 0: not resized, and all must have one size.
        progress: as `console.progress`, for the labels, which are read when a set is first streamed.
    """
    take_split = functools.partial(_stream_split, image_size=image_size, progress=progress)
    return _raw_data_set(tfds_name, data_dir, take_split, tfds.core.FileFormat.ARRAY_RECORD)


def _raw_data_set(tfds_name: str, data_dir: str, take_split: Callable, file_format) -> RawDataset:
    """The set, its splits taken by `take_split`, prepared in `file_format` (None: TFDS's default) if it is not yet."""
    with quiet():
        builder = _prepared_builder(tfds_name, data_dir, file_format)
        features, splits = builder.info.features, builder.info.splits
        _check_features(features, tfds_name)
        test = _test_split(builder, tfds_name)
        if missing := {"train", test} - set(splits):
            raise _error(tfds_name, f"has no {min(missing)} split, only {sorted(splits)}", "choose another set")
        splits = [Split(*take_split(builder, split, tfds_name)) for split in ("train", test)]
    label = features["label"]
    return RawDataset(tuple(label.names or map(str, range(label.num_classes))), *splits)


def is_prepared(tfds_name: str, data_dir: str) -> bool:
    """Whether a set's files are there; a FieldError if there is no such set."""
    with quiet():
        return _best_builder(tfds_name, data_dir).is_prepared()


def describe(tfds_name: str, data_dir: str) -> tuple[tuple[int | None, ...], int, int | None]:
    """(image shape, number of classes, training examples) of a set, as far as TFDS knows without preparing it.

    A FieldError if there is no such set, or if it is not one of images with one label each.
    """
    with quiet():
        builder = _best_builder(tfds_name, data_dir)
        features, splits = builder.info.features, builder.info.splits
        _check_features(features, tfds_name)
    examples = splits["train"].num_examples if "train" in splits else None
    return features["image"].shape, features["label"].num_classes, examples or None


def train_labels(tfds_name: str, data_dir: str, streaming: bool, progress: Callable) -> np.ndarray | None:
    """Labels [N] of the training set, in the order of its files; None where it is not prepared; see `stream`.

    If the images are streamed, the labels are kept in the user's cache.
    """
    with quiet():
        builder = _best_builder(tfds_name, data_dir)
        if not builder.is_prepared() or "train" not in builder.info.splits:
            return None
        if streaming or builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            return _labels(_source(builder, "train", tfds_name), builder, "train", tfds_name, progress)
        return _read_split(builder, "train", tfds_name)[1]


def _test_split(builder: tfds.core.DatasetBuilder, tfds_name: str) -> str:
    """`test`, or `validation` if there is no test split or its labels are not published, which TFDS writes as -1."""
    splits = builder.info.splits
    if "test" in splits and "validation" in splits:
        try:
            if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
                examples = builder.as_data_source("test", decoders={"image": tfds.decode.SkipDecoding()})
            else:
                examples = builder.as_dataset(
                    split="test[:1]",
                    decoders=tfds.decode.PartialDecoding({"label": True}),
                    read_config=tfds.ReadConfig(try_autocache=False),
                ).as_numpy_iterator()
            label = next(iter(examples), {"label": 0})["label"]
        except encoded.ERRORS as error:
            raise encoded.unreadable(f"tfds:{tfds_name}", error) from error
        return "test" if label >= 0 else "validation"
    return "test" if "test" in splits else "validation"


def _error(tfds_name: str, problem: str, remedy: str) -> FieldError:
    return FieldError("data.name", f"tfds:{tfds_name}", problem, remedy)


def _reason(error: Exception) -> str:
    """An exception of TFDS in one line of bounded length."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")


@contextlib.contextmanager
def quiet():
    """Silences the log messages of TFDS inside the context."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _prepared_builder(tfds_name: str, data_dir: str, file_format) -> tfds.core.DatasetBuilder:
    """The builder of a set whose files are there, downloading them if need be, and then writing them in this format."""
    builder = _best_builder(tfds_name, data_dir)
    if builder.is_prepared():
        return builder
    command = f"`tfds.builder({tfds_name!r}, data_dir=DIR).download_and_prepare()`"
    command = f"set data.data_dir or TFDS_DATA_DIR to a folder DIR where {command} has prepared it"
    where = f"is not prepared in {str(builder.data_dir)!r}"
    if unreachable := _unreachable_host(builder):
        raise _error(tfds_name, f"{where} and {unreachable} cannot be reached to download it", command)
    try:
        if file_format is not None:
            builder.info.set_file_format(file_format, override=True)
        # TFDS no longer serves prepared sets from its bucket; trying it would only take time.
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # Anything: network, disk, checksums, data to be fetched by hand, missing packages.
        raise _error(tfds_name, f"{where} and preparing it failed ({_reason(error)})", command) from error
    return builder


def _best_builder(tfds_name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of a set, in a prepared version if there is one."""
    # TFDS reads the variable only at import; here a later value is used too.
    data_dir = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR", "")) or None
    builder = _builder(tfds_name, data_dir)
    if not builder.is_prepared():
        with contextlib.suppress(Exception):
            # The installed TFDS may be newer or older than the folder: any prepared version is accepted.
            other_version = tfds.builder(f"{tfds_name}:*.*.*", data_dir=data_dir)
            if other_version.is_prepared():
                return other_version
    return builder


def _builder(tfds_name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The builder of a set that TFDS or `data_dir` knows."""
    try:
        return tfds.builder(tfds_name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        base_name = tfds_name.partition("/")[0].partition(":")[0]
        near = difflib.get_close_matches(base_name, tfds.list_builders(with_community_datasets=False))
        remedy = f"did you mean {' or '.join(near)}?" if near else "choose one of tensorflow.org/datasets/catalog"
        raise _error(tfds_name, "is unknown to TFDS and no folder of data.data_dir", remedy) from error
    except ImportError as error:
        raise _error(tfds_name, f"needs a package that is not installed ({_reason(error)})", "install it") from error
    except Exception as error:  # A wrong config, version or argument.
        raise _error(tfds_name, f"cannot be used ({_reason(error)})", "correct the name") from error


def _unreachable_host(builder: tfds.core.DatasetBuilder) -> str:
    """A host that the download needs and that does not answer; empty if a host answers or none is known.

    TFDS would retry for minutes. This tries each host once, through the proxy if one is set.
    """
    import requests

    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return ""  # TFDS says at once which files to fetch by hand.
    urls = {urllib.parse.urlsplit(url).netloc: url for url in builder.url_infos or () if url.startswith("http")}
    for url in list(urls.values())[:_PROBE_HOSTS]:
        try:
            requests.head(url, timeout=_PROBE_SECONDS)
        except requests.RequestException:
            continue
        return ""  # Any answer, even a refused HEAD request, shows that there is a network.
    return next(iter(urls), "")


def _check_features(features: tfds.features.FeatureConnector, tfds_name: str):
    """Raises FieldError unless a set has an image and one label per example."""
    wanted = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    for key, kind in wanted.items():
        if key not in features or not isinstance(features[key], kind):
            problem = f"has no {kind.__name__} feature {key!r}, only {sorted(features)}"
            raise _error(tfds_name, problem, "choose a set for image classification")


def _read_split(builder: tfds.core.DatasetBuilder, split: str, tfds_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W, C] and labels [N] of a split, in the order of its files."""
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        images, labels = _stream_split(builder, split, tfds_name, 0, no_progress)
        return np.asarray(images), labels
    image = builder.info.features["image"]
    # Images whose sizes may vary are read one by one: they cannot be stacked to a batch.
    batch_size = 1 if None in image.shape else READ_BATCH
    examples = builder.as_dataset(
        split=split,
        batch_size=batch_size,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding({"image": True, "label": True}),
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    num_examples = builder.info.splits[split].num_examples
    images, labels, stop = None, np.empty(num_examples, np.int64), 0
    try:
        for block in tfds.as_numpy(examples):
            start, stop = stop, stop + len(block["label"])
            if images is None:
                images = np.empty((num_examples, *block["image"].shape[1:]), block["image"].dtype)
            if block["image"].shape[1:] != images.shape[1:]:
                problem = f"has images of {block['image'].shape[1:]} and of {images.shape[1:]}"
                raise _error(tfds_name, problem, "choose a set of equally sized images")
            images[start:stop], labels[start:stop] = block["image"], block["label"]
    except encoded.ERRORS as error:  # also where there are more examples than described, or fewer
        raise encoded.unreadable(f"tfds:{tfds_name}", error) from error
    return (np.empty((0, 1, 1, 1), np.uint8) if images is None else images), labels


def _stream_split(builder, split: str, tfds_name: str, image_size: int, progress: Callable):
    """Images [N, H, W, C], still in their files, and labels [N] of a split, in the order of its files."""
    image = builder.info.features["image"]
    if image.dtype != np.uint8:
        raise _error(tfds_name, f"has images of type {np.dtype(image.dtype)}", "use a set of 8-bit images")
    source = _source(builder, split, tfds_name)
    labels = _labels(source, builder, split, tfds_name, progress)

    def read(indices):
        examples = source.__getitems__(indices.tolist())
        return tf.io.parse_example(examples, {"image": tf.io.FixedLenFeature([], tf.string)})["image"]

    shape = (image_size, image_size, image.shape[2]) if image_size else image.shape
    images = encoded.EncodedImages(
        name=f"tfds:{tfds_name}",
        read=read,
        where=lambda index: f"example {index} of split {split!r}",
        indices=np.arange(len(labels)),
        image_shape=shape,
        resized=image_size > 0,
    )
    # A shape that is not declared is that of the first image, and an image of another shape is an error.
    return (images.with_first_shape() if None in shape else images), labels


def _source(builder, split: str, tfds_name: str):
    """The serialised examples of a split, by index."""
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        problem = f"is prepared in {str(builder.data_dir)!r} as {builder.info.file_format.value}"
        remedy = (
            "set data.data_dir to another folder, where it is then prepared as array_record, as by "
            f"tfds.builder({tfds_name!r}, data_dir=DIR, file_format='array_record').download_and_prepare()"
        )
        raise _error(tfds_name, f"{problem}, which cannot be streamed", remedy)
    files = [os.fspath(file) for file in builder.info.splits[split].filepaths]
    if "://" in files[0]:
        raise _error(tfds_name, f"is stored in {files[0]!r}, not on a file system", "mount or copy it")
    # Every file stays open; ImageNet has as many as a process may open by default.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, soft + len(files))), hard))
    return builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)


def _labels(source, builder, split: str, tfds_name: str, progress: Callable) -> np.ndarray:
    """Labels [N] of a split: from the user's cache, or read from all its files once, which also checks these.

    They are read again when the size or the time of a file changes.
    """
    name = f"tfds:{tfds_name}"
    files = [os.path.abspath(file) for file in builder.info.splits[split].filepaths]
    try:
        stamps = np.array([(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, files)], np.int64)
    except OSError as error:
        raise encoded.unreadable(name, error) from error
    path = files_lib.user_cache() / f"labels-{hashlib.sha256(repr(files).encode()).hexdigest()[:32]}.npz"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no home folder, or a full disk: then the files are read each time
            path.parent.mkdir(parents=True, exist_ok=True)
            # One process of a machine reads the files, the others wait for it.
            stack.enter_context(files_lib.locked(path.with_suffix(".lock")))
        if (labels := _cached_labels(path, stamps)) is not None:
            return labels
        labels = _scanned_labels(source, name, progress)
        content = io.BytesIO()
        np.savez(content, stamps=stamps, labels=labels)
        with contextlib.suppress(OSError):
            files_lib.write_atomically(path, content.getvalue())
    return labels


def _cached_labels(path: pathlib.Path, stamps: np.ndarray) -> np.ndarray | None:
    """The labels in the cache; None if they are missing, damaged, or of files that have changed since."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            return content["labels"] if np.array_equal(content["stamps"], stamps) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error):
        return None


def _scanned_labels(source, name: str, progress: Callable) -> np.ndarray:
    def read(start: int) -> np.ndarray:
        stop = min(start + READ_BATCH, len(source))
        try:
            examples = source.__getitems__(range(start, stop))
            return tf.io.parse_example(examples, {"label": tf.io.FixedLenFeature([], tf.int64)})["label"].numpy()
        except encoded.ERRORS as error:
            raise encoded.unreadable(name, error, f"one of examples {start} to {stop - 1}") from error

    parts = [np.empty(0, np.int64)]
    with (
        progress(f"{name}: reading its labels, once", len(source), "examples") as advance,
        concurrent.futures.ThreadPoolExecutor(encoded.cores()) as pool,
        # After an error, what has not yet been started is cancelled.
        contextlib.closing(pool.map(read, range(0, len(source), READ_BATCH))) as found,
    ):
        for part in found:
            parts.append(part)
            advance(len(part))
    return np.concatenate(parts)
