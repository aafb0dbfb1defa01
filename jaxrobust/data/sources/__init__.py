"""The sources of data. A name consists of a form and, for most forms, a colon and an argument:

    digits            scikit-learn's 1,797 handwritten digits, 8 x 8, bundled: runs anywhere
    tfds:NAME         any TensorFlow Datasets set with features `image` and `label`, for example tfds:cifar10
    arrays:FILE.npz   train_images, train_labels, test_images, test_labels and, if you like, class_names
    folder:DIR        DIR/train/CLASS/*.png and DIR/test/CLASS/*.png, or any raster format of Pillow
    gaussians         two or more Gaussian classes, for which robustness has closed forms

A source returns a `RawDataset` without checking its contents, or raises FieldError if there is none; `checks` then
checks it. A new source is a module here and an entry in `SOURCES`.
"""

import contextlib
import difflib
import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust.data.checks import RawDataset, checked_labels
from jaxrobust.data.sources.gaussians import Gaussians
from jaxrobust.errors import FieldError, listed

# What to do about a set whose size is not known.
DESCRIBE = "describe it: --images=50000x32x32x3 (training examples, height, width, channels) and --classes=10"


def no_progress(title: str, total: int, unit: str):
    """Shows nothing; has the interface of `console.progress`."""
    return contextlib.nullcontext(lambda amount: None)


class Request(NamedTuple):
    """What a source is asked for: the name, its argument, and what `jaxrobust.data.load` was called with."""

    name: str
    argument: str
    data_dir: str = ""
    seed: int = 0
    gaussians: Gaussians | None = None
    streaming: bool = False
    image_size: int = 0
    progress: Callable = no_progress
    # for the size alone: whether the examples of each class are needed, even if that means reading labels.
    counted: bool = False


class Size(NamedTuple):
    """What determines a program's shapes, of a training set; None for what is unknown."""

    image_shape: tuple[int | None, ...]  # (height, width, channels)
    num_classes: int
    examples: int | None
    counts: np.ndarray | None = None  # examples of each class, int [num_classes]
    pixel_type: str = "uint8"  # "uint8" or "float32"


def _size_by_reading(request: Request) -> Size:
    raw = SOURCES[check_name(request.name)[0]].read(request)
    images, classes = raw.train.images, len(raw.class_names)
    labels = checked_labels(raw.train.labels, classes, "training", "data.name", request.name)
    kind = "uint8" if images.dtype == np.uint8 else "float32"
    return Size(images.shape[1:], classes, len(images), np.bincount(labels, minlength=classes), kind)


class Source(NamedTuple):
    """A source of data. Its module is imported when it reads, so that it alone needs its dependencies."""

    read: Callable[[Request], RawDataset]  # Request -> RawDataset in memory
    argument: str = ""  # what follows the colon, for a reader; empty: the name has no argument
    # Request -> RawDataset whose images stay in their files; None if it cannot do that.
    stream: Callable[[Request], RawDataset] | None = None
    size: Callable[[Request], Size] = _size_by_reading  # Request -> Size, if possible without reading images
    is_there: Callable[[Request], bool] = lambda request: True  # Request -> whether it can be read without a download


def _module(name: str):
    return importlib.import_module(f"jaxrobust.data.sources.{name}")


def _mixture(request: Request) -> Gaussians:
    if request.gaussians is None:
        raise FieldError("data.gaussians", None, "does not describe a mixture", "pass a Gaussians")
    return request.gaussians


def _mixture_size(request: Request) -> Size:
    mixture, classes = _mixture(request), len(_mixture(request).means)
    counts = np.bincount(mixture.train_labels(request.seed), minlength=classes) if request.counted else None
    return Size((1, mixture.dimension, 1), classes, mixture.train_examples, counts, "float32")


SOURCES = {
    "digits": Source(lambda r: _module("digits").read()),
    "tfds": Source(
        lambda r: _module("tfds").read(r.argument, r.data_dir),
        "NAME",
        stream=lambda r: _module("tfds").stream(r.argument, r.data_dir, r.image_size, r.progress),
        size=lambda r: _module("tfds_sizes").size(r),
        is_there=lambda r: _module("tfds").is_prepared(r.argument, r.data_dir),
    ),
    "arrays": Source(lambda r: _module("arrays").read(r.argument), "FILE.npz"),
    "folder": Source(
        lambda r: _module("folder").read(r.argument),
        "DIR",
        stream=lambda r: _module("folder").stream(r.argument, r.image_size),
    ),
    "gaussians": Source(lambda r: _module("gaussians").read(_mixture(r), r.seed), size=_mixture_size),
}


def forms(streamed: bool = False) -> list[str]:
    """The forms of a name, as a user writes them; `streamed`: of the sources that can leave images in their files."""
    return [
        form + (source.argument and f":{source.argument}")
        for form, source in SOURCES.items()
        if source.stream or not streamed
    ]


def check_name(name: str) -> tuple[str, str]:
    """Splits a data set's name into (form, argument), without imports; a FieldError if it has no known form."""
    form, colon, argument = name.partition(":")
    if form in SOURCES and bool(colon) == bool(argument) == bool(SOURCES[form].argument):
        return form, argument
    near = difflib.get_close_matches(name, [form for form, source in SOURCES.items() if not source.argument], n=1)
    if not near and name.isidentifier():  # A bare name such as cifar10 is most likely one of TFDS.
        near = [f"tfds:{name}"]
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise FieldError("data.name", name, "is not the name of a data set", f"{listed(forms())}{guess}")


def check_streaming(name: str, streaming: bool) -> None:
    """Raises FieldError unless the data set called `name` can be read this way; reads nothing."""
    form, _ = check_name(name)
    if not isinstance(streaming, bool):
        raise FieldError("data.streaming", streaming, "is not True or False", "give one")
    if streaming and SOURCES[form].stream is None:
        remedy = f"set data.streaming to False, or use {' or '.join(forms(streamed=True))}"
        raise FieldError("data.streaming", True, f"{name!r} can only be read into memory", remedy)
