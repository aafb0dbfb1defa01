"""The properties of a data set that determine a program's shapes: `describe("tfds:cifar10")` needs no download.

For measurements and planning on machines without the data. `random_dataset` makes a data set from a description.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxrobust.data import imbalance, sources
from jaxrobust.data.dataset import Dataset, Split
from jaxrobust.data.sources import Gaussians, check_name
from jaxrobust.errors import FieldError


@dataclasses.dataclass(frozen=True)
class Description:
    """A data set without its contents."""

    name: str  # as the user wrote it, for example `tfds:cifar10`
    image_shape: tuple[int, int, int]  # (height, width, channels)
    num_classes: int  # of the labels
    train_examples: int  # without the validation split; for a long-tailed subset the number it keeps
    pixel_type: str = "uint8"  # "uint8" (0..255) or "float32" (in [0, 1])


def describe(
    name: str,
    *,
    data_dir: str = "",
    validation_per_class: int = 0,
    seed: int = 0,
    gaussians: Gaussians | None = None,
    streaming: bool = False,
    image_size: int | None = None,
    imbalance_profile: str = "none",
    imbalance_ratio: float = 1.0,
    images: tuple[int, int, int, int] | None = None,
    num_classes: int | None = None,
    progress: Callable = sources.no_progress,
) -> Description:
    """A data set's shape, classes and size, if possible without reading its images.

    The size of a long-tailed subset depends on the labels, so these are read if the set is prepared. Otherwise all
    classes are assumed to have the same size, unless their sizes are known.

    Args:
        name, data_dir, validation_per_class, seed, gaussians, streaming, progress: as for `jaxrobust.data.load`.
        imbalance_profile, imbalance_ratio: likewise.
        image_size: height and width that images are resized to; required for sets whose images vary in size.
        images: (training examples, height, width, channels), used instead of the source's values.
        num_classes: likewise.

    Raises:
        FieldError: the name is invalid, or the set is unknown; the error says how to describe it.
    """
    form, argument = check_name(name)
    if images is not None and num_classes is not None:
        size = sources.Size(images[1:], num_classes, images[0])
    else:
        counted = imbalance_profile != "none"
        asked = data_dir, seed, gaussians, streaming, image_size or 0, progress, counted
        size = sources.SOURCES[form].size(sources.Request(name, argument, *asked))
    examples, *shape = images or (size.examples, *size.image_shape)
    classes, counts = num_classes or size.num_classes, size.counts
    height, width, channels = shape
    if image_size:
        height = width = image_size
    if None in (height, width, channels):
        raise FieldError("data.name", name, "has images of different sizes", sources.DESCRIBE)
    if examples is None:
        raise FieldError(
            "data.name", name, "its number of examples is known only when it is prepared", sources.DESCRIBE
        )
    if counts is None or (len(counts), counts.sum()) != (classes, examples):
        counts = (np.arange(classes) + examples) // classes
    left = counts - validation_per_class
    if left.min() < 1:
        problem = f"leaves no example of some class: {examples} training examples in {classes} classes"
        raise FieldError("data.validation_per_class", validation_per_class, problem, "hold out fewer")
    if imbalance_profile != "none":
        left = imbalance.checked_sizes(left, imbalance_profile, imbalance_ratio, range(classes))
    return Description(name, (height, width, channels), classes, int(left.sum()), size.pixel_type)


def described(dataset: Dataset) -> Description:
    """The description of a loaded data set."""
    train = dataset.train
    kind = "uint8" if train.images.dtype == np.uint8 else "float32"
    return Description(dataset.name, dataset.image_shape, dataset.num_classes, len(train), kind)


def is_there(name: str, data_dir: str = "") -> bool:
    """Whether a data set can be loaded without a download, judged by its name; files are not read."""
    form, argument = check_name(name)
    try:
        return sources.SOURCES[form].is_there(sources.Request(name, argument, data_dir))
    except ImportError:
        return False


def random_dataset(description: Description, *, largest_bytes: int = 2**28, seed: int = 0) -> Dataset:
    """A training split of random pixels and balanced labels that fits a description, of at most `largest_bytes`."""
    per_image = int(np.prod(description.image_shape)) * np.dtype(description.pixel_type).itemsize
    examples = max(description.num_classes, min(description.train_examples, largest_bytes // per_image))
    rng = np.random.default_rng(seed)
    shape = (examples, *description.image_shape)
    if description.pixel_type == "uint8":
        images = rng.integers(0, 256, shape, np.uint8)
    else:
        images = rng.random(shape, np.float32)
    train = Split(images, np.arange(examples, dtype=np.int32) % description.num_classes)
    names = tuple(f"class {label}" for label in range(description.num_classes))
    return Dataset(description.name, names, train, train.take(slice(0)), train.take(slice(0)))
