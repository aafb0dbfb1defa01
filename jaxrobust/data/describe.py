"""The properties of a data set that determine a program's shapes: `describe("tfds:cifar10")` needs no download.

For measurements and planning on machines without the data. `random_dataset` makes a data set from a description.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np

from jaxrobust.data import checks, imbalance, sources
from jaxrobust.data.dataset import Dataset, Split
from jaxrobust.data.sources import Gaussians, check_name
from jaxrobust.errors import FieldError

_REMEDY = "describe it: --images=50000x32x32x3 (training examples, height, width, channels) and --classes=10"


@dataclasses.dataclass(frozen=True)
class Description:
    """A data set without its contents.

    Attributes:
        name: as the user wrote it, for example `tfds:cifar10`.
        image_shape: (height, width, channels).
        num_classes: of the labels.
        train_examples: without the validation split; for a long-tailed subset the number it keeps.
        pixel_type: "uint8" (0..255) or "float32" (in [0, 1]).
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    train_examples: int
    pixel_type: str = "uint8"


# What TFDS knows about its sets only after they were prepared, or not at all on a machine without TensorFlow:
# image shape (None where sizes vary), classes, training examples. From their documentation.
_KNOWN = {
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000),
    "imagenet2012": ((None, None, 3), 1000, 1_281_167),
    "imagenet_resized/32x32": ((32, 32, 3), 1000, 1_281_167),
    "imagenet_resized/64x64": ((64, 64, 3), 1000, 1_281_167),
    "mnist": ((28, 28, 1), 10, 60_000),
    "svhn_cropped": ((32, 32, 3), 10, 73_257),
}
# Training examples of each class, for the sets whose classes differ in size.
_KNOWN_COUNTS = {
    "mnist": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "svhn_cropped": (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
}


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
    pixel_type, counts = "uint8", None
    if images is not None and num_classes is not None:
        examples, *shape = images
        classes = num_classes
    elif form == "tfds":
        shape, classes, examples = _of_tfds(argument, data_dir)
        if imbalance_profile != "none":
            counts = _counts_of_tfds(argument, data_dir, classes, streaming, progress)
    elif form == "gaussians" and gaussians is not None:
        shape, classes, examples = (1, gaussians.dimension, 1), len(gaussians.means), gaussians.train_examples
        pixel_type = "float32"
        if imbalance_profile != "none":
            counts = np.bincount(gaussians.train_labels(seed), minlength=classes)
    else:
        raw = sources.read(name, data_dir=data_dir, seed=seed, gaussians=gaussians)
        shape, classes, examples = raw.train_images.shape[1:], len(raw.class_names), len(raw.train_images)
        pixel_type = "uint8" if raw.train_images.dtype == np.uint8 else "float32"
        labels = checks.checked_labels(raw.train_labels, classes, name, "training")
        counts = np.bincount(labels, minlength=classes)
    if images is not None:
        examples, *shape = images
    classes = num_classes or classes
    height, width, channels = shape
    if image_size:
        height = width = image_size
    if None in (height, width, channels):
        raise FieldError("data.name", name, "has images of different sizes", _REMEDY)
    if examples is None:
        raise FieldError("data.name", name, "its number of examples is known only when it is prepared", _REMEDY)
    if counts is None or (len(counts), counts.sum()) != (classes, examples):
        counts = (np.arange(classes) + examples) // classes
    left = counts - validation_per_class
    if left.min() < 1:
        problem = f"leaves no example of some class: {examples} training examples in {classes} classes"
        raise FieldError("data.validation_per_class", validation_per_class, problem, "hold out fewer")
    if imbalance_profile != "none":
        left = imbalance.checked_sizes(left, imbalance_profile, imbalance_ratio, range(classes))
    return Description(name, (height, width, channels), classes, int(left.sum()), pixel_type)


def described(dataset: Dataset) -> Description:
    """The description of a loaded data set."""
    train = dataset.train
    kind = "uint8" if train.images.dtype == np.uint8 else "float32"
    return Description(dataset.name, dataset.image_shape, dataset.num_classes, len(train), kind)


def is_there(name: str, data_dir: str = "") -> bool:
    """Whether a data set can be loaded without a download, judged by its name; files are not read."""
    form, argument = check_name(name)
    if form != "tfds":
        return True
    try:
        from jaxrobust.data.sources import tfds
    except ImportError:
        return False
    return tfds.is_prepared(argument, data_dir)


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


def _of_tfds(tfds_name: str, data_dir: str):
    """(image shape, classes, training examples) of a TFDS set; None for what is unknown."""
    shape, classes, examples = _KNOWN.get(tfds_name.partition(":")[0], ((None, None, None), None, None))
    with contextlib.suppress(ImportError):
        from jaxrobust.data.sources import tfds

        # A prepared set contains its own description.
        shape, classes, prepared_examples = tfds.describe(tfds_name, data_dir)
        examples = prepared_examples or examples
    if classes is None:
        problem = "is unknown without TensorFlow Datasets, which is not installed"
        raise FieldError("data.name", f"tfds:{tfds_name}", problem, _REMEDY)
    return shape, classes, examples


def _counts_of_tfds(tfds_name: str, data_dir: str, classes: int, streaming: bool, progress: Callable):
    """Training examples of each class of a TFDS set, [classes] int; None if unknown."""
    with contextlib.suppress(ImportError):
        from jaxrobust.data.sources import tfds

        labels = tfds.train_labels(tfds_name, data_dir, streaming, progress)
        if labels is not None:
            labels = checks.checked_labels(labels, classes, f"tfds:{tfds_name}", "training")
            return np.bincount(labels, minlength=classes)
    known = _KNOWN_COUNTS.get(tfds_name.partition(":")[0])
    return None if known is None else np.array(known)
