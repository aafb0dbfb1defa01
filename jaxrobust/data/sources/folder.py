"""Images in one folder per class: read into memory, or left in their files."""

import concurrent.futures
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxrobust import console
from jaxrobust.data.checks import RawDataset
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

_SUFFIXES = {".png", ".jpg", ".jpeg"}
_DEEP_MODES = ("I", "F")  # prefixes, also of I;16 and similar modes: conversion to 8 bits would clip them
_READERS = 16  # parallel reads; they wait for a disk or a network, not for a processor


def read(folder_dir: str) -> RawDataset:
    """Reads DIR/train/CLASS/* and DIR/test/CLASS/*, files in the order of their sorted names.

    Classes are numbered in the order of their sorted folder names. Images keep one channel if all of them are 8-bit
    grey, and are read as RGB otherwise. Hidden folders and files of other types are ignored.

    Raises:
        FieldError: a folder is missing, the splits have different classes, images differ in size, or a file is broken.
    """
    name = f"folder:{folder_dir}"
    class_names, (train_files, train_labels), (test_files, test_labels) = _listing(folder_dir, name)
    files = train_files + test_files
    # Pillow releases the interpreter lock while it reads and decodes, so threads are enough.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        headers = list(pool.map(lambda file: _header(file, name), files))
        _check_sizes(files, [size for size, _ in headers], name)
        mode = "L" if all(mode == "L" for _, mode in headers) else "RGB"
        width, height = headers[0][0] if headers else (1, 1)
        images = np.empty((len(files), height, width, len(mode)), np.uint8)

        def decode(index: int):
            images[index] = _pixels(files[index], mode, name).reshape(images.shape[1:])

        list(pool.map(decode, range(len(files))))
    splits = Split(images[: len(train_files)], train_labels), Split(images[len(train_files) :], test_labels)
    return RawDataset(class_names, *splits)


def stream(folder_dir: str, image_size: int) -> RawDataset:
    """The same set, its images left in their files until they are needed.

    TensorFlow decodes them, `read` uses Pillow: the pixels of a PNG are the same, those of a JPEG differ by rounding.

    Args:
        image_size: side of the square that images are resized to; 0: not resized, and all must have one size.
    """
    # Here: decoding while training takes TensorFlow, which takes seconds to import.
    from jaxrobust.data import encoded

    name = f"folder:{folder_dir}"
    class_names, *listed = _listing(folder_dir, name)
    # Headers are read up to the first image in colour.
    channels = 1 if all(_header(file, name)[1] == "L" for files, _ in listed for file in files) else 3

    def images(files: Sequence[pathlib.Path]) -> encoded.EncodedImages:
        def read(indices: np.ndarray) -> list[bytes]:
            with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
                return list(pool.map(lambda index: files[index].read_bytes(), indices))

        found = encoded.EncodedImages(
            name=name,
            read=read,
            where=lambda index: repr(str(files[index])),
            indices=np.arange(len(files)),
            image_shape=(image_size, image_size, channels),
            resized=image_size > 0,
        )
        return found if image_size else found.with_first_shape()

    return RawDataset(class_names, *(Split(images(files), labels) for files, labels in listed))


def _listing(folder_dir: str, name: str):
    """Class names, (files, labels [N]) of the training split, and of the test split."""
    root = pathlib.Path(folder_dir).expanduser()
    class_names = _class_names(root / "train", name)
    if different := set(class_names) ^ set(_class_names(root / "test", name)):
        problem = f"class {min(different)!r} is in only one of train and test"
        raise FieldError("data.name", name, problem, "give both folders the same classes; a test class may be empty")
    train, test = (_files(root / split, class_names) for split in ("train", "test"))
    counts = f"{len(train[0])} training and {len(test[0])} test images of {len(class_names)} classes"
    console.say(f"found {counts} in {str(root)!r}")
    return class_names, train, test


def _class_names(split_dir: pathlib.Path, name: str) -> tuple[str, ...]:
    """Sorted names of the folders in a split's folder."""
    if not split_dir.is_dir():
        problem = f"there is no folder {str(split_dir)!r}"
        raise FieldError("data.name", name, problem, "arrange images as DIR/train/CLASS/*.png and DIR/test/CLASS/*.png")
    return tuple(sorted(d.name for d in split_dir.iterdir() if d.is_dir() and not d.name.startswith(".")))


def _files(split_dir: pathlib.Path, class_names: Sequence[str]) -> tuple[list[pathlib.Path], np.ndarray]:
    """A split's image files, and their labels [N]."""
    labelled = [
        (file, label)
        for label, name in enumerate(class_names)
        for file in sorted((split_dir / name).iterdir())
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
    ]
    return [file for file, _ in labelled], np.array([label for _, label in labelled], int)


def _open(file: pathlib.Path, name: str) -> Image.Image:
    """Opens an image; its pixels are not decoded yet."""
    try:
        return Image.open(file)
    except OSError as error:
        raise _broken(file, name) from error


def _broken(file: pathlib.Path, name: str) -> FieldError:
    return FieldError("data.name", name, f"{str(file)!r} cannot be read as an image", "repair or remove it")


def _header(file: pathlib.Path, name: str) -> tuple[tuple[int, int], str]:
    """((width, height), mode) of an image file."""
    with _open(file, name) as image:
        if image.mode.startswith(_DEEP_MODES):
            problem = f"{str(file)!r} has more than 8 bits per channel"
            raise FieldError("data.name", name, problem, "convert it to 8 bits, or store the set as arrays:FILE.npz")
        return image.size, image.mode


def _check_sizes(files: Sequence[pathlib.Path], sizes: Sequence[tuple[int, int]], name: str):
    """Raises FieldError naming the first file whose size is not that of the first file."""
    for file, (width, height) in zip(files, sizes, strict=True):
        if (width, height) != sizes[0]:
            problem = f"{str(file)!r} is {height} x {width} but {str(files[0])!r} is {sizes[0][1]} x {sizes[0][0]}"
            remedy = "resize all images to one height and width, or set data.streaming and data.image_size"
            raise FieldError("data.name", name, problem, remedy)


def _pixels(file: pathlib.Path, mode: str, name: str) -> np.ndarray:
    """Decodes an image to [H, W] (mode L) or [H, W, 3] (mode RGB) uint8."""
    with _open(file, name) as image:
        try:
            return np.asarray(image.convert(mode))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # for a broken file
            raise _broken(file, name) from error
