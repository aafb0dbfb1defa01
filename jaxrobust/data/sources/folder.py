"""Images in one folder per class: read into memory, or left in their files.

Pillow reads every raster format that it can decode by itself, up to `LARGEST_PIXELS` and `LARGEST_BYTES` a file. Images
are turned upright as their EXIF data say. Refused, by file: several frames, pixels that are not opaque, more than 8
bits of grey. What is not an image file is skipped and counted by class, and a class that lost a part is marked.
"""

import collections
import concurrent.futures
import contextlib
import functools
import io
import itertools
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, ImageOps

from jaxrobust import console, files as files_lib
from jaxrobust.data.checks import HIDDEN, LOST_MARK, RawDataset, may_be_images, skipped_text
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

LARGEST_PIXELS = 2**26  # of an image, 8,192 x 8,192
LARGEST_BYTES = 2**28  # of a file
# Not those that need another program, that hold no raster or one in many sizes, or of which Pillow has no decoder.
_FORMATS = ("AVIF", "BLP", "BMP", "CUR", "DDS", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "MSP", "PCX", "PNG")
_FORMATS += ("PPM", "QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM")
# Files of these are known by their first bytes, whatever their suffix.
_KNOWN_BY_CONTENT = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_DEEP_MODES = ("I", "F")  # prefixes, also of I;16 and similar modes: conversion to 8 bits would clip them
_PNG_EXIF = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}  # where Pillow finds the EXIF data of a PNG
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_READERS = 16  # parallel reads; they wait for a disk or a network, not for a processor
_SHOWN_CLASSES = 10
_OF_A_SYSTEM = ("thumbs.db", "desktop.ini")  # hidden where they come from

# Pillow warns of images above a bound of its own, and of damaged EXIF data. Both are dealt with here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read(folder_dir: str) -> RawDataset:
    """Reads DIR/train/CLASS/* and DIR/test/CLASS/*, files in the order of their sorted names.

    Classes are numbered in the order of their sorted folder names. Images keep one channel if all of them are 8-bit
    grey, and are read as RGB otherwise. Hidden files, sub-folders and files of other types are skipped.

    Raises:
        FieldError: a folder is missing, the splits have different classes, images differ in size or do not fit into
            the memory, or a file is broken, no regular file, or refused, see above.
    """
    name = f"folder:{folder_dir}"
    class_names, skipped, (train_files, train_labels), (test_files, test_labels) = _listing(folder_dir, name)
    files = train_files + test_files
    # Pillow releases the interpreter lock while it reads and decodes, so threads are enough.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        headers = list(pool.map(lambda file: _header(file, name), files))
        _check_sizes(files, [size for size, _ in headers], name)
        mode = "L" if all(mode == "L" for _, mode in headers) else "RGB"
        width, height = headers[0][0] if headers else (1, 1)
        if (needed := len(files) * height * width * len(mode)) > files_lib.memory():
            problem = f"its images take {needed:,} bytes, more than this machine's memory"
            raise FieldError("data.name", name, problem, "set data.streaming and data.image_size")
        images = np.empty((len(files), height, width, len(mode)), np.uint8)

        def decode(index: int):
            with _opened(files[index], name) as image:
                images[index] = np.asarray(_pixels(image, mode, files[index], name)).reshape(images.shape[1:])

        list(pool.map(decode, range(len(files))))
    splits = Split(images[: len(train_files)], train_labels), Split(images[len(train_files) :], test_labels)
    return RawDataset(class_names, *splits, skipped)


def stream(folder_dir: str, image_size: int) -> RawDataset:
    """The same set, its images left in their files until they are needed.

    TensorFlow decodes and resizes plain JPEGs; then their pixels differ from those of Pillow by rounding. Images that
    are not resized have the pixels that `read` gives.

    Args:
        image_size: side of the square that images are resized to; 0: not resized, and all must have one size.
    """
    # Here: decoding while training takes TensorFlow, which takes seconds to import.
    from jaxrobust.data import encoded

    name = f"folder:{folder_dir}"
    class_names, skipped, *listed = _listing(folder_dir, name)
    # Headers are read up to the first image in colour.
    mode = "L" if all(_header(file, name)[1] == "L" for files, _ in listed for file in files) else "RGB"

    def images(files: Sequence[pathlib.Path]) -> encoded.EncodedImages:
        plain = np.zeros(len(files), bool)  # known to be passed on as they are: headers are checked once

        def content(index: int) -> bytes:
            if plain[index]:
                return files[index].read_bytes()
            encoded_image, plain[index] = _encoded(files[index], mode, name, exact=not image_size)
            return encoded_image

        def read(indices: np.ndarray) -> list[bytes]:
            with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
                return list(pool.map(content, indices))

        found = encoded.EncodedImages(
            name=name,
            read=read,
            where=lambda index: repr(str(files[index])),
            indices=np.arange(len(files)),
            image_shape=(image_size, image_size, len(mode)),
            resized=image_size > 0,
        )
        return found if image_size else found.with_first_shape()

    return RawDataset(class_names, *(Split(images(files), labels) for files, labels in listed), skipped)


def _listing(folder_dir: str, name: str):
    """Class names, what was skipped of each class, (files, labels [N]) of the training split, and of the test split."""
    root = pathlib.Path(folder_dir).expanduser()
    try:
        class_names = _class_names(root / "train", name)
        if different := set(class_names) ^ set(_class_names(root / "test", name)):
            problem = f"class {min(different)!r} is in only one of train and test"
            remedy = "give both folders the same classes; a test class may be empty"
            raise FieldError("data.name", name, problem, remedy)
        found = [[_entries(root / split / c, name) for c in class_names] for split in ("train", "test")]
    except OSError as error:
        raise FieldError("data.name", name, f"cannot be listed ({error})", "make its folders readable") from error
    train, test = (_labelled([files for files, _ in split]) for split in found)
    skipped = tuple(in_train + in_test for (_, in_train), (_, in_test) in zip(*found, strict=True))
    counts = f"{len(train[0])} training and {len(test[0])} test images of {len(class_names)} classes"
    console.say(f"found {counts} in {str(root)!r}")
    if texts := [f"{c}: {skipped_text(of)}" for c, of in zip(class_names, skipped, strict=True) if of]:
        more = f"; and of {len(texts) - _SHOWN_CLASSES} more classes" if len(texts) > _SHOWN_CLASSES else ""
        console.warn(f"files that are not read, by class: {'; '.join(texts[:_SHOWN_CLASSES])}{more}")
    if any(may_be_images(kind) for of in skipped for kind in of):
        console.warn(f"classes that may have lost images so are marked{LOST_MARK}; convert these images to .png")
    return class_names, skipped, train, test


def _class_names(split_dir: pathlib.Path, name: str) -> tuple[str, ...]:
    """Sorted names of the folders in a split's folder."""
    if not split_dir.is_dir():
        problem = f"there is no folder {str(split_dir)!r}"
        raise FieldError("data.name", name, problem, "arrange images as DIR/train/CLASS/*.png and DIR/test/CLASS/*.png")
    return tuple(sorted(d.name for d in split_dir.iterdir() if d.is_dir() and not d.name.startswith(".")))


def _entries(class_dir: pathlib.Path, name: str) -> tuple[list[pathlib.Path], collections.Counter]:
    """A class's image files, sorted, and how many entries of other kinds its folder has, by kind."""
    files, skipped = [], collections.Counter()
    with os.scandir(class_dir) as entries:
        for entry in entries:
            suffix = pathlib.PurePath(entry.name).suffix.lower()
            # Most are files, whose kind is known without a system call for each. Links are followed.
            is_file = entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)
            if entry.name.startswith(".") or entry.name.lower() in _OF_A_SYSTEM:
                skipped[HIDDEN] += 1
            elif not is_file and os.path.isdir(entry.path):
                skipped["sub-folders"] += 1
            elif suffix not in _format_of_suffix():
                skipped[suffix if suffix[1:].isalnum() and len(suffix) <= 8 else "other files"] += 1
            elif not is_file:
                raise _refused(entry.path, "is no regular file, nor a link to one", "remove it", name)
            else:
                files.append(class_dir / entry.name)
    return sorted(files), skipped


def _labelled(files_of_class: Sequence[list[pathlib.Path]]) -> tuple[list[pathlib.Path], np.ndarray]:
    """The files of all classes, and their labels [N]."""
    labels = np.repeat(np.arange(len(files_of_class)), list(map(len, files_of_class)))
    return list(itertools.chain(*files_of_class)), labels


@functools.cache
def _format_of_suffix() -> dict[str, str]:
    """Those formats of `_FORMATS` that this Pillow reads, by the suffixes of their files."""
    found = Image.registered_extensions()  # also loads the formats
    return {suffix: of for suffix, of in found.items() if of in _FORMATS and of in (*Image.OPEN, "MPO")}


@contextlib.contextmanager
def _opened(file: pathlib.Path, name: str):
    """The image of a file, its pixels not decoded yet, and its header checked. What fails inside is a FieldError."""
    formats = Image.OPEN.keys() & {_format_of_suffix()[file.suffix.lower()], *_KNOWN_BY_CONTENT}
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise _refused(file, f"has more than {LARGEST_BYTES:,} bytes", "store it smaller", name)
        with Image.open(file, formats=sorted(formats)) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise Image.DecompressionBombError
            if image.mode.startswith(_DEEP_MODES):
                remedy = "convert it to 8 bits, or store the set as arrays:FILE.npz"
                raise _refused(file, "has more than 8 bits per channel", remedy, name)
            # The further pictures of a camera's MPO are previews of the first.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise _refused(file, "has several frames", "store those that you want as images of their own", name)
            yield image
    except FieldError:
        raise
    except Image.DecompressionBombError as error:
        raise _refused(file, f"claims more than {LARGEST_PIXELS:,} pixels", "resize or remove it", name) from error
    except Exception as error:  # Pillow raises many kinds for files that are damaged or malicious
        raise _refused(file, "cannot be read as an image", "repair or remove it", name) from error


def _refused(file: str | pathlib.Path, problem: str, remedy: str, name: str) -> FieldError:
    return FieldError("data.name", name, f"{str(file)!r} {problem}", remedy)


def _header(file: pathlib.Path, name: str) -> tuple[tuple[int, int], str]:
    """((width, height), mode) of an image, upright."""
    with _opened(file, name) as image:
        # Pillow gives the size of a TIFF as it is after turning, and would decode a PNG to look for EXIF data.
        has_exif = image.format != "PNG" or image.info.keys() & _PNG_EXIF
        turned = has_exif and image.format != "TIFF" and _orientation(image) in _TURNED
        return (image.height, image.width) if turned else image.size, image.mode


def _orientation(image: Image.Image) -> int:
    """By the EXIF data; 1, upright, if there are none or they are damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as many kinds as in `_opened`
        return 1


def _check_sizes(files: Sequence[pathlib.Path], sizes: Sequence[tuple[int, int]], name: str):
    """Raises FieldError naming the first file whose size is not that of the first file."""
    for file, (width, height) in zip(files, sizes, strict=True):
        if (width, height) != sizes[0]:
            problem = f"is {height} x {width} but {str(files[0])!r} is {sizes[0][1]} x {sizes[0][0]}"
            remedy = "resize all images to one height and width, or set data.streaming and data.image_size"
            raise _refused(file, problem, remedy, name)


def _pixels(image: Image.Image, mode: str, file: pathlib.Path, name: str) -> Image.Image:
    """An opened image, decoded, upright, and in mode L or RGB."""
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        opacity = (image if "A" in image.getbands() else image.convert("RGBA")).getchannel("A")
        if opacity.getextrema()[0] < 255:
            remedy = "paste it on the background that it is to have, and store it without opacity"
            raise _refused(file, "has pixels that are not opaque", remedy, name)
    return image.convert(mode)


def _encoded(file: pathlib.Path, mode: str, name: str, *, exact: bool) -> tuple[bytes, bool]:
    """A JPEG or PNG of the same image, and whether that is the file: if TensorFlow decodes it to the same pixels.

    Args:
        exact: also up to rounding, in which decoders of JPEGs differ.
    """
    with _opened(file, name) as image:
        if image.mode in ("L", "RGB") and image.format in ("JPEG", "MPO", "PNG")[2 * exact :]:
            content = file.read_bytes()
            is_png = image.format == "PNG"
            upright = (
                b"eXIf" not in content and not image.info.keys() & _PNG_EXIF if is_png else _orientation(image) == 1
            )
            if upright and not image.has_transparency_data:
                return content, True
        buffer = io.BytesIO()
        _pixels(image, mode, file, name).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue(), False
