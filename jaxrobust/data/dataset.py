"""The two types that carry data: a split, and a data set of three splits."""

import dataclasses
import zlib

import numpy as np


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
class DataSet:
    """A data set that has passed `checks`. Class c is called `class_names[c]`; each class has training examples.

    Attributes:
        name: as the user wrote it, for example `tfds:cifar10`.
        class_names: one name per class, in the order of the labels.
        train: the examples that the model is trained on.
        validation: held out of the training set, class by class; may be empty.
        test: the examples that results are reported for; a class may be missing.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

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
