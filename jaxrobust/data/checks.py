"""Checks that every data set must pass before it is used; the same for all sources."""

import collections
import mimetypes
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust import console
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

HIDDEN = "hidden files"
LOST_MARK = " †"  # behind the name of a class of which files were skipped that may be its images
_HOLD_IMAGES = (".pdf", ".ps", ".eps", ".h5", ".hdf", ".wmf")  # though their type is another
_COMPARED = 1000  # images of a split whose pixels are compared with those of another
_FEWEST = 20  # images of a split, below which it may differ by chance


class RawDataset(NamedTuple):
    """What a source returns: class names, and splits of images [N, H, W, C] and labels [N] as they were read.

    `skipped` is, for each class, how many files of each kind were not read; () where no source skips any.
    """

    class_names: tuple[str, ...]
    train: Split
    test: Split
    skipped: Sequence[Mapping[str, int]] = ()


def may_be_images(kind: str) -> bool:
    """Whether skipped files of a kind, a suffix if it has a dot, may have been meant as images."""
    known, _ = mimetypes.guess_type(f"file{kind}")
    return kind != HIDDEN and (known is None or known.startswith("image/") or kind in _HOLD_IMAGES)


def skipped_text(skipped: Mapping[str, int], shown: int = 3) -> str:
    """The most frequent kinds of what was skipped, as in "102 .heic, 2 sub-folders"."""
    by_number = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    others = sum(number for _, number in by_number[shown:])
    return ", ".join([f"{number} {kind}" for kind, number in by_number[:shown]] + [f"{others} others"] * (others > 0))


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
    check_names(names, "data.name", name)
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
    warn_of_pixels({"training": train, "test": test}, "data.name", name)
    return names, train, test


def check_names(names: tuple[str, ...], field: str, value) -> None:
    """Raises FieldError, of the field and the value, unless there are two or more classes, each with its own name."""
    problem, remedy = None, "give every class a name of its own, of up to 200 characters that can be printed"
    if len(names) < 2:
        classes = f"{len(names)} class" + "es" * (not names)
        problem, remedy = f"has {classes}", "give two or more"
    elif len(set(names)) < len(names):
        problem = f"two classes are called {collections.Counter(names).most_common(1)[0][0]!r}"
    elif wrong := [name for name in names if not (name.isprintable() and name.strip() and len(name) <= 200)]:
        problem = f"has a class called {wrong[0][:99]!r}"
    if problem:
        raise FieldError(field, value, problem, remedy)


def warn_of_pixels(splits: dict[str, Split], field: str, value: str) -> None:
    """Warns of images that are hardly what they should be, and of splits whose pixels differ from the first one's.

    Streamed images are not looked at: reading them would take as long as an epoch.
    """

    def warn(problem, remedy):
        console.warn(str(FieldError(field, value, problem, remedy)))

    first, *others = splits
    channels = splits[first].images.shape[-1]
    if channels not in (1, 3):
        remedy = "leave opacity out; if they are no channels, store images as [N, height, width, channels]"
        warn(f"{first} images have {channels} channels, not 1 (grey) or 3 (RGB)", remedy)
    splits = {name: split for name, split in splits.items() if len(split) and not split.streamed}
    if first not in splits:
        return
    for name, split in splits.items():
        highest, lowest = (float(end(split.images)) / _white(split.images) for end in (np.max, np.min))
        if lowest == highest:
            warn(f"all pixels of the {name} images are {highest:.3g}", "check how they were made")
        elif highest < 0.1 and len(split) >= _FEWEST:
            remedy = "if that is not how dark they are, multiply them so that white is 255, or 1 in floats"
            warn(f"the brightest pixel of the {name} images is {highest:.2g} of white", remedy)
    mean, spread, contrast = _statistics(splits[first].images)
    for name in others:
        if name in splits and min(len(splits[name]), len(splits[first])) >= _FEWEST:
            mean_here, _, contrast_here = _statistics(splits[name].images)
            far = abs(mean_here - mean) > max(3 * spread, 0.1)
            low, high = sorted((contrast, contrast_here))
            if far or low < high / 4 > 0.0025:
                said = f"{mean_here:.3g} with standard deviation {contrast_here:.3g}, of the {first} images"
                problem = f"the mean of the {name} pixels is {said} {mean:.3g} with {contrast:.3g}"
                warn(problem, "bring all splits to one scale, and do not normalise them")


def _white(images: np.ndarray) -> int:
    return 255 if images.dtype == np.uint8 else 1


def _statistics(images: np.ndarray) -> tuple[float, float, float]:
    """Of evenly spaced images, white being 1: the mean pixel, the deviation of images' means, and that of pixels."""
    some = images[:: -(-len(images) // _COMPARED)].astype(np.float64) / _white(images)
    return some.mean(), some.mean((1, 2, 3)).std(), some.std()


def first_empty(train: Split, class_names) -> str | None:
    """Says which class has no training example, the first if there are several; None if there is none."""
    empty = np.flatnonzero(train.counts(len(class_names)) == 0)
    return f"class {class_names[empty[0]]!r} (label {empty[0]}) has no training example" if len(empty) else None


def classes_of(labels: np.ndarray) -> int:
    """How many classes labels have if their names are not given: up to the largest, but not more than labels."""
    return min(int(labels.max()) + 1, labels.size) if labels.size and labels.dtype.kind in "iu" else 0


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
    # No real image has so few rows, and so many channels: these arrays have another layout.
    if images.shape[1] <= 4 < min(images.shape[2:]):
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
    if 0 < high <= 1.01 / 255:
        raise error(f"lie in [{low:.3g}, {high:.3g}], as if divided by 255 twice", "divide them once")
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
