"""Checks that every data set must pass before it is used; the same for all sources."""

from typing import NamedTuple

import numpy as np

from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError


class RawDataset(NamedTuple):
    """What a source returns: class names, and splits of images [N, H, W, C] and labels [N] as they were read."""

    class_names: tuple[str, ...]
    train: Split
    test: Split


def checked(raw: RawDataset, name: str) -> tuple[tuple[str, ...], Split, Split]:
    """Checks a data set and converts it to the package's types: class names, training split, test split.

    Args:
        name: `data.name`, for the errors.

    Raises:
        FieldError: it names the first problem found.
    """

    def error(problem, remedy):
        return FieldError("data.name", name, problem, remedy)

    names = raw.class_names
    if len(names) < 2:
        raise error(f"has {len(names)} class", "robustness class by class needs at least 2 classes")
    if twice := [n for n in names if names.count(n) > 1]:
        raise error(f"two classes are called {twice[0]!r}", "give every class its own name")
    for class_name in names:
        if not class_name.isprintable() or not class_name.strip():
            raise error(f"has a class called {class_name!r}", "use a name that can be printed")
    train, test = (
        checked_split(split, len(names), which, "data.name", name)
        for split, which in ((raw.train, "training"), (raw.test, "test"))
    )
    shapes = [" x ".join(map(str, split.images.shape[1:])) for split in (train, test)]
    if shapes[0] != shapes[1]:
        remedy = "bring them to one size and number of channels" + (": set data.image_size" if train.streamed else "")
        raise error(f"training images are {shapes[0]} but test images are {shapes[1]}", remedy)
    types = [split.images.dtype for split in (train, test)]
    if types[0] != types[1]:
        raise error(f"training images are {types[0]} but test images are {types[1]}", "store both in the same type")
    if (missing := first_empty(train, names)) is not None:
        raise error(missing, "add examples or remove the class and renumber the labels")
    return names, train, test


def first_empty(train: Split, class_names) -> str | None:
    """Says which class has no training example, the first if there are several; None if there is none."""
    empty = np.flatnonzero(train.counts(len(class_names)) == 0)
    return f"class {class_names[empty[0]]!r} (label {empty[0]}) has no training example" if len(empty) else None


def checked_split(split: Split, num_classes: int, which: str, field: str, value: str) -> Split:
    """Images [N, H, W, C] as uint8, or as float32 in [0, 1], and labels as int32; see `checked_labels`."""

    def error(problem, remedy):
        return FieldError(field, value, problem, remedy)

    images = _checked_images(split.images, lambda problem, remedy: error(f"{which} images {problem}", remedy))
    if not split.labels.size:
        raise error(f"has no {which} labels", "give every image one label")
    labels = checked_labels(split.labels, num_classes, which, field, value)
    if len(images) != len(labels):
        problem = f"holds {len(images)} {which} images but {len(labels)} {which} labels"
        raise error(problem, "give every image one label")
    return Split(images, labels)


def _checked_images(images: np.ndarray, error) -> np.ndarray:
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise error(f"have shape {images.shape}", "store them as [N, height, width, channels]")
    if not len(images):
        raise error("are missing", "provide at least one")
    # No real image has 1 or 3 rows and as many channels as columns: these arrays have another layout.
    if images.shape[1] in (1, 3) and images.shape[2] == images.shape[3] > 4:
        problem = f"have shape {images.shape}, channels before height and width"
        raise error(problem, "transpose them to [N, height, width, channels]")
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


def checked_labels(labels: np.ndarray, num_classes: int, which: str, field: str, value: str) -> np.ndarray:
    """Labels [N] as int32, all in 0..num_classes-1; `field`, `value` and `which` name them in errors."""

    def error(problem, remedy):
        return FieldError(field, value, f"{which} labels {problem}", remedy)

    if labels.ndim != 1:
        raise error(f"have shape {labels.shape}", "store them as [N], one integer per image")
    if labels.dtype.kind not in "iu":
        raise error(f"are of type {labels.dtype}", "store them as integers")
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        at = int(outside.argmax())
        remedy = f"with {num_classes} classes use labels 0 to {num_classes - 1}, or name more classes"
        raise error(f"hold {labels[at]} (at index {at})", remedy)
    return labels.astype(np.int32, copy=False)
