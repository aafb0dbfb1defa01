"""Smaller images, for cheaper experiments: each pixel is the mean of a square block."""

import numpy as np

from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError


def shrunk(split: Split, side: int) -> Split:
    """The split with images [N, side, side, C]; 0 leaves them as they are. Means of uint8 are rounded to uint8."""
    number, height, width, channels = split.images.shape
    if not side or (height, width) == (side, side):
        return split
    if height % side or width % side:
        problem = f"does not divide images of {height} x {width} pixels into blocks"
        raise FieldError("data.image_size", side, problem, "use a divisor, 0 to keep the size, or data.streaming")
    blocks = split.images.reshape(number, side, height // side, side, width // side, channels)
    means = blocks.mean((2, 4), dtype=np.float32)
    return Split(np.rint(means).astype(np.uint8) if split.images.dtype == np.uint8 else means, split.labels)
