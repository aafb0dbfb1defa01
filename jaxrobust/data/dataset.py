"""The two types that carry data: a split, and a data set of three splits."""

import dataclasses
import itertools
import zlib

import numpy as np

from jaxrobust.errors import FieldError, as_names, number


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labelled images in a fixed order. An example's index in its split is its id.

    Attributes:
        images: [N, H, W, C], uint8 in 0..255 or float32 in [0, 1]. Of a streamed set it is a `encoded.EncodedImages`,
            which has shape, dtype and length, can be indexed like an array, and is decoded by `np.asarray`.
        labels: [N] int32.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images {self.images.shape[1:]} {self.images.dtype})"

    @property
    def streamed(self) -> bool:
        """Whether images are decoded when they are needed; otherwise they are an array in memory."""
        return not isinstance(self.images, np.ndarray)

    def counts(self, num_classes: int) -> np.ndarray:
        """Examples of each class, [num_classes] int."""
        return np.bincount(self.labels, minlength=num_classes)

    def take(self, indices: np.ndarray | slice) -> "Split":
        """The examples at `indices`, in that order; for a slice, views of them. Streamed images are not decoded."""
        return Split(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set that has passed `checks`. Class c is called `class_names[c]`; each class has training examples.

    Attributes:
        name: as the user wrote it, for example `tfds:cifar10`.
        class_names: one name per class, in the order of the labels.
        train: the examples that the model is trained on.
        validation: held out of the training set, class by class; may be empty.
        test: the examples that results are reported for; a class may be missing.
        skipped: for each class, which of its files were not read, in words, or ""; () where no source skips any. A
            class that may have lost images has a mark behind its name.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    skipped: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def streamed(self) -> bool:
        """Whether images are decoded when they are needed; otherwise they are arrays in memory."""
        return self.train.streamed

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.train.images.shape[1:]

    @classmethod
    def from_arrays(
        cls, train, test=None, validation=None, *, validation_per_class: int = 0, class_names=None, seed: int = 0
    ) -> "Dataset":
        """A data set of arrays.

        Args:
            train, test, validation: (images [N, H, W, C], labels [N]); images are uint8 in 0..255 or float in [0, 1],
                labels are integers from 0. Without `test` that split is empty.
            validation_per_class: examples of each class to move from `train` to `validation`, where that is not given.
            class_names: a name for each class; by default "0", "1" and so on, up to the largest label of `train`.
            seed: selects the examples that are moved.

        Raises:
            FieldError: names the argument, and what is wrong with it.

        Example:
            >>> import numpy as np
            >>> images, labels = np.zeros((6, 4, 4, 1)), np.array([0, 1, 2, 0, 1, 2])
            >>> data = Dataset.from_arrays((images, labels), class_names=("cat", "dog", "car"))
            >>> data.num_classes, data.image_shape, data.train.counts(3).tolist(), len(data.test)
            (3, (4, 4, 1), [2, 2, 2], 0)
        """
        from jaxrobust.data import checks, randomness, splits

        if class_names is None:
            class_names = range(checks.classes_of(_arrays(train, "train").labels))
        class_names = as_names("class_names", class_names)
        checks.check_names(class_names, "class_names", class_names)
        train = _checked_split(train, "train", len(class_names))
        if (missing := checks.first_empty(train, class_names)) is not None:
            raise FieldError("train", "arrays", missing, "add examples, or renumber the labels")
        others = {"test": test, "validation": validation}
        for name, given in others.items():
            others[name] = train.take(slice(0)) if given is None else _checked_split(given, name, len(class_names))
            kinds = [(split.images.dtype, split.images.shape[1:]) for split in (others[name], train)]
            if kinds[0] != kinds[1]:
                problem = f"its images are {kinds[0][0]} {kinds[0][1]}, those of train {kinds[1][0]} {kinds[1][1]}"
                raise FieldError(name, "arrays", problem, "bring them to one type and shape")
        checks.warn_of_pixels({"train": train, **others}, "train", "arrays")
        if validation is None:
            rng = randomness.generator(number("seed", seed, 0, 2**32 - 1, kind=int), "validation")
            validation_per_class = number("validation_per_class", validation_per_class, 0, 10**9, kind=int)
            train, others["validation"] = splits.hold_out(
                train, validation_per_class, class_names, rng, field="validation_per_class"
            )
        return cls("arrays", class_names, train, **others)

    @classmethod
    def from_folder(cls, folder, **options) -> "Dataset":
        """The images in FOLDER/train/CLASS and FOLDER/test/CLASS; `options` as of `load`.

        Example: `Dataset.from_folder("photographs", validation_per_class=50, image_size=64)`
        """
        from jaxrobust.data import load

        return load(f"folder:{folder}", **options)

    @classmethod
    def from_tfds(cls, name: str, **options) -> "Dataset":
        """A set of TensorFlow Datasets, downloaded where it is not prepared; `options` as of `load`.

        Example: `Dataset.from_tfds("cifar10", validation_per_class=100)`
        """
        from jaxrobust.data import load

        return load(f"tfds:{name}", **options)

    def fingerprint(self) -> dict:
        """JSON data by name that identifies this data set; cheap, because most pixels are not read."""
        values = {"data classes": list(self.class_names), "data image shape": list(self.image_shape)}
        for name in ("train", "validation", "test"):
            split = getattr(self, name)
            values[f"data {name} examples"] = len(split)
            values[f"data {name} labels (CRC-32)"] = zlib.crc32(np.ascontiguousarray(split.labels))
            if not self.streamed:
                first = np.ascontiguousarray(split.images[:64])
                values[f"data {name} images (CRC-32 of the first)"] = zlib.crc32(first)
        return values

    def counts(self) -> dict:
        """JSON data: the names of the classes, how many examples each has in each split, and what was skipped."""
        splits = {name: getattr(self, name) for name in ("train", "validation", "test")}
        counts = {name: split.counts(self.num_classes).tolist() for name, split in splits.items()}
        return {"classes": list(self.class_names), **counts, "skipped": list(self.skipped)}


def _checked_split(given, field: str, num_classes: int) -> Split:
    """The split of an argument (images, labels)."""
    from jaxrobust.data import checks

    return checks.checked_split(_arrays(given, field), num_classes, field, field, "arrays")


def _arrays(given, field: str) -> Split:
    try:
        return Split(*map(np.asarray, itertools.islice(given, 3)))  # which may be endless
    except (TypeError, ValueError) as error:
        raise FieldError(field, type(given).__name__, "is not a pair of arrays", "give (images, labels)") from error
