"""Checks that every data set must pass before it is used; the same for all sources."""

import dataclasses

import numpy as np

from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError


@dataclasses.dataclass(frozen=True, eq=False)
class RawDataset:
    """What a source returns: arrays as they were read, without any check.

    The images of a streamed set are objects that represent such arrays; see `Split`.

    Attributes:
        class_names: one name per class; it fixes the number of classes.
        train_images: [N, H, W, C] pixels of any type.
        train_labels: [N].
        test_images: [M, H, W, C].
        test_labels: [M].
    """

    class_names: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def checked(raw: RawDataset, name: str) -> tuple[tuple[str, ...], Split, Split]:
    """Checks a data set and converts it to the package's types.

    Args:
        raw: the arrays of a source.
        name: `data.name`, for the errors.

    Returns:
        class names, training split, test split.

    Raises:
        FieldError: it names the first problem found.
    """
    num_classes = len(raw.class_names)
    if num_classes < 2:
        raise FieldError(
            "data.name", name, f"has {num_classes} class", "robustness class by class needs at least 2 classes"
        )
    if len(set(raw.class_names)) < num_classes:
        twice = next(n for n in raw.class_names if raw.class_names.count(n) > 1)
        raise FieldError("data.name", name, f"two classes are called {twice!r}", "give every class its own name")
    for class_name in raw.class_names:
        if not class_name.isprintable() or not class_name.strip():
            raise FieldError("data.name", name, f"has a class called {class_name!r}", "use a name that can be printed")
    for images, labels, which in (
        (raw.train_images, raw.train_labels, "training"),
        (raw.test_images, raw.test_labels, "test"),
    ):
        if len(images) and not len(labels):
            raise FieldError("data.name", name, f"has no {which} labels", "give every image one label")
    train = Split(
        checked_images(raw.train_images, name, "training"),
        checked_labels(raw.train_labels, num_classes, name, "training"),
    )
    test = Split(
        checked_images(raw.test_images, name, "test"), checked_labels(raw.test_labels, num_classes, name, "test")
    )
    for split, which in ((train, "training"), (test, "test")):
        if len(split.images) != len(split.labels):
            raise FieldError(
                "data.name",
                name,
                f"holds {len(split.images)} {which} images but {len(split.labels)} {which} labels",
                "give every image one label",
            )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise FieldError(
            "data.name",
            name,
            f"training images are {_shape(train.images)} but test images are {_shape(test.images)}",
            "bring them to one size and number of channels"
            + ("" if isinstance(raw.train_images, np.ndarray) else ": set data.image_size"),
        )
    if train.images.dtype != test.images.dtype:
        raise FieldError(
            "data.name",
            name,
            f"training images are {train.images.dtype} but test images are {test.images.dtype}",
            "store both in the same type",
        )
    missing = np.flatnonzero(train.counts(num_classes) == 0)
    if len(missing):
        raise FieldError(
            "data.name",
            name,
            f"class {raw.class_names[missing[0]]!r} (label {missing[0]}) has no training example",
            "add examples or remove the class and renumber the labels",
        )
    return raw.class_names, train, test


def checked_images(images: np.ndarray, name: str, which: str, field: str = "data.name") -> np.ndarray:
    """Images [N, H, W, C] as uint8, or as float32 in [0, 1]; `field`, `name` and `which` name them in errors."""

    def error(problem, remedy):
        return FieldError(field, name, f"{which} images {problem}", remedy)

    if images.ndim != 4 or 0 in images.shape[1:]:
        raise error(f"have shape {images.shape}", "store them as [N, height, width, channels]")
    if not len(images):
        raise error("are missing", f"provide at least one {which} image")
    # No real image has 1 or 3 rows and as many channels as columns: these arrays have another layout.
    if images.shape[1] in (1, 3) and images.shape[2] == images.shape[3] > 4:
        raise error(
            f"have shape {images.shape}, channels before height and width",
            "transpose them to [N, height, width, channels]",
        )
    if images.dtype == np.uint8:
        # The pixels of streamed images are not checked: reading them would take as long as an epoch.
        if isinstance(images, np.ndarray) and images.max() == 1:
            raise error("are uint8 with no value above 1, nearly black", "multiply them by 255")
        return images
    if images.dtype.kind != "f":
        raise error(f"are of type {images.dtype}", "store them as uint8 in 0..255 or as float in [0, 1]")
    bad = images.size - np.count_nonzero(np.isfinite(images))
    if bad:
        raise error(f"hold NaN or infinity in {bad} of {images.size} pixels", "remove or repair those images")
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        # Rounding and interpolation exceed 1 only slightly; values in 0..255 exceed 1.5 in any real image.
        remedy = "divide them by 255" if low >= 0 and high > 1.5 else "undo their normalisation, then clip to [0, 1]"
        raise error(f"lie in [{low:.6g}, {high:.6g}], outside [0, 1]", remedy)
    return images.astype(np.float32, copy=False)


def checked_labels(labels: np.ndarray, num_classes: int, name: str, which: str, field: str = "data.name") -> np.ndarray:
    """Labels [N] as int32, all in 0..num_classes-1; `field`, `name` and `which` name them in errors."""

    def error(problem, remedy):
        return FieldError(field, name, f"{which} labels {problem}", remedy)

    if labels.ndim != 1:
        raise error(f"have shape {labels.shape}", "store them as [N], one integer per image")
    if labels.dtype.kind not in "iu":
        raise error(f"are of type {labels.dtype}", "store them as integers")
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        at = int(outside.argmax())
        raise error(
            f"hold {labels[at]} (at index {at})",
            f"with {num_classes} classes use labels 0 to {num_classes - 1}, or name more classes",
        )
    return labels.astype(np.int32, copy=False)


def _shape(images: np.ndarray) -> str:
    """'32 x 32 x 3' for images [N, 32, 32, 3]."""
    return " x ".join(str(n) for n in images.shape[1:])
