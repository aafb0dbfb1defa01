"""Probes of the training images only: their number, and how much the classes overlap.

Points are [n, D]: pixels, or features of a model trained without attack.
"""

import numpy as np

from jaxrobust.explanations import features as geometry
from jaxrobust.explanations.probe import by_class, of_family

_probe = of_family("data", "data")

NEIGHBOURS = 10
LARGEST_SIDE = 64  # pixels; larger images are averaged over blocks first
AT_ONCE = 2**24  # distances in memory


def neighbour_overlap(points, labels, num_classes: int, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Share of the nearest neighbours of the images of each class that are of another class, [C].

    An image has at most n - 1 neighbours of its own class of n images, so the share is larger for smaller classes.
    """
    labels, shares = np.asarray(labels), []
    neighbours = min(neighbours, len(labels) - 1)
    for rows, squares in _squares(points):
        nearest = np.argpartition(squares, neighbours - 1, axis=1)[:, :neighbours]
        shares.append((labels[nearest] != labels[rows, None]).mean(1))
    return by_class(np.concatenate(shares), labels, num_classes)


def distance_ratio(points, labels, num_classes: int) -> np.ndarray:
    """Median over each class of: distance to the nearest image of another class / distance to the nearest of its own.

    The result is [C]. It is below 1 if images of other classes are nearer; nan for a class with a single image.
    """
    labels, ratios = np.asarray(labels), []
    for rows, squares in _squares(points):
        same = labels[rows, None] == labels[None]
        own, other = np.where(same, squares, np.inf).min(1), np.where(same, np.inf, squares).min(1)
        ratio = np.divide(other, own, out=np.where(other > 0, np.inf, 1.0), where=own > 0)
        ratios.append(np.sqrt(np.where(np.isinf(own), np.nan, ratio)))
    return by_class(np.concatenate(ratios), labels, num_classes, np.median)


def shrink(images) -> np.ndarray:
    """Images [n, H, W, C] as points [n, D], averaged over blocks if a side is longer than `LARGEST_SIDE`."""
    images = np.asarray(images)
    n, height, width, channels = images.shape
    block = -(-max(height, width) // LARGEST_SIDE)
    if block > 1:
        rows, columns = height // block, width // block
        images = images[:, : rows * block, : columns * block]
        images = images.reshape(n, rows, block, columns, block, channels).mean((2, 4))
    return np.float32(images).reshape(n, -1)


def _squares(points):
    """(row numbers, squared distances [rows, n] to all points, infinite to itself), a part of the rows at a time."""
    points = np.float32(points)
    # Centred, to reduce rounding errors.
    points = points - points.mean(0, keepdims=True)
    lengths = np.square(points).sum(1)
    for rows in np.array_split(np.arange(len(points)), -(-(len(points) ** 2) // AT_ONCE)):
        squares = np.maximum(lengths[rows, None] + lengths[None] - 2 * points[rows] @ points.T, 0.0)
        squares[np.arange(len(rows)), rows] = np.inf
        yield rows, squares


def _of_pixels(function):
    return lambda inputs: function(*inputs.train_pixels, len(inputs.class_names))


PROBES = (
    _probe("training_images", 1, lambda inputs: np.float64(inputs.dataset.train.counts(len(inputs.class_names))),
           "Number of training images."),
    _probe("pixel_overlap", -1, _of_pixels(neighbour_overlap),
           f"Share of the {NEIGHBOURS} nearest training images, in pixels, that are of another class."),
    _probe("pixel_mean_distance", 1, _of_pixels(geometry.mean_distance),
           "Distance of the class's mean image to the nearest mean image of another class."),
    _probe("pixel_ratio", 1, _of_pixels(distance_ratio),
           "Median distance, in pixels, to the nearest image of another class over that to the nearest of its own."),
    _probe("standard_overlap", -1, lambda inputs: neighbour_overlap(*inputs.standard_features, len(inputs.class_names)),
           f"Share of the {NEIGHBOURS} nearest training images, in features of a standard model, of another "
           "class.", looks_at="model"),
)  # fmt: skip
