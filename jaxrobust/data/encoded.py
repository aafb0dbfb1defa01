"""Images that stay in their files until they are needed.

    images = EncodedImages("folder:pets", read, where, np.arange(1000), (224, 224, 3), resized=True)
    images[5:9]                 # a selection: nothing is read
    np.asarray(images[5:9])     # read and decoded: [4, 224, 224, 3] uint8

A source gives the function that reads the files, see `sources.tfds` and `sources.folder`; TensorFlow decodes.
"""

import dataclasses
import functools
import os
import re
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from jaxrobust.data import pixels
from jaxrobust.errors import FieldError

# What reading and decoding raise for a file that is missing or damaged: Python, array_record and TensorFlow. The last
# quotes bytes that it cannot parse, and Python then fails to decode the message (a ValueError).
ERRORS = (OSError, RuntimeError, ValueError, IndexError, tf.errors.OpError)


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImages:
    """Represents an array [N, H, W, C] uint8 of decoded images. Indexing gives another one; `np.asarray` decodes."""

    name: str  # `data.name`, for the errors
    # indices [n] -> the contents of n JPEGs or PNGs; called by several threads.
    read: Callable[[np.ndarray], Sequence[bytes]]
    where: Callable[[int], str]  # index -> what the errors call this image
    indices: np.ndarray  # [N] int, those of the images that this object represents
    image_shape: tuple[int, int, int]  # (H, W, C) after decoding
    resized: bool  # whether images are resized to this shape; if not, they have it in the files

    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self.image_shape)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: np.ndarray | slice | tuple) -> "EncodedImages":
        if isinstance(index, tuple):  # jax indexes all dimensions when it splits an array over devices
            index, *rest = index
            if any(part != slice(None) for part in rest):
                raise TypeError("whole images are selected, not parts of them")
        if np.ndim(index) == 0 and not isinstance(index, slice):
            raise TypeError("select images by a slice, an array of indices or a mask; np.asarray then decodes them")
        return dataclasses.replace(self, indices=self.indices[index])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """The decoded images, resized as for evaluation; a FieldError where a file is missing or damaged."""
        if copy is False:
            raise ValueError("decoding makes a new array")
        images = self._decoded(_parallel(pixels.decode, self.image_shape, self.resized))
        return images if dtype is None else images.astype(dtype, copy=False)

    def random_crops(self, seeds: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
        """Random parts of the images, [N, H, W, C] uint8, see `pixels.random_crop`.

        Args:
            seeds: [N, 2] int64.
            scale: smallest and largest share of the area.
        """
        return self._decoded(_parallel(pixels.random_crop, self.image_shape, tuple(scale), seeded=True), seeds)

    def with_first_shape(self) -> "EncodedImages":
        """The same images, all of the shape that the first one has in its file."""
        channels = self.image_shape[2]
        if not len(self):
            return dataclasses.replace(self, image_shape=(1, 1, channels))
        first = self[:1]._decoded(lambda contents: pixels.decode_whole(contents[0], channels))
        return dataclasses.replace(self, image_shape=first.shape)

    def _decoded(self, decode: Callable, *arguments) -> np.ndarray:
        try:
            return decode(tf.constant(self.read(self.indices), tf.string, [len(self)]), *arguments).numpy()
        except ERRORS as error:
            for at in range(len(self) if len(self) > 1 else 0):  # raises at the image that is to blame
                self[at : at + 1]._decoded(decode, *(argument[at : at + 1] for argument in arguments))
            raise unreadable(self.name, error, self.where(self.indices[0]) if len(self) == 1 else "") from error


@functools.cache
def _parallel(function: Callable, image_shape, option, seeded: bool = False) -> Callable:
    """The function of one image as one of several, compiled once, the images decoded in parallel."""
    signature = [tf.TensorSpec([None], tf.string), *([tf.TensorSpec([None, 2], tf.int64)] if seeded else [])]

    @tf.function(input_signature=signature)
    def decode(*images):
        return tf.map_fn(
            lambda image: function(*image, image_shape, option),
            images,
            fn_output_signature=tf.TensorSpec(image_shape, tf.uint8),
            parallel_iterations=2 * cores(),
        )

    return decode


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def unreadable(name: str, error: Exception, where: str = "") -> FieldError:
    """The error for a data set of which a file cannot be read or decoded."""
    # TensorFlow's messages begin with a traceback of the graph and name its nodes in brackets.
    message = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\]", "", str(getattr(error, "message", error)))
    message = message.strip().rpartition("\n\n")[2]
    different = re.search(r"\[([\d,]+)\] is not compatible with expected shape \[([\d,]+)\]", message)
    if different is not None:
        problem = "keeps the sizes of images, but their shapes are {} and {}".format(*different.groups())
        return FieldError("data.image_size", 0, problem, "set it to the side length to resize them to")
    if isinstance(error, UnicodeDecodeError):
        message = "a record is not a tf.Example"
    reason = textwrap.shorten(f"{type(error).__name__}: {message}", 300, placeholder=" ...")
    what = f"{where} " if where else ""
    return FieldError("data.name", name, f"{what}cannot be read ({reason})", "restore it or prepare it again")
