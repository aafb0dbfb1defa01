"""Decoding, resizing and random crops. What resizing for evaluation equals is tested in test_data_encoded.py."""

import numpy as np
import pytest
import tensorflow as tf
from streamed_sets import jpeg

from jaxrobust.data import pixels

# Pixel (row, column) holds its own place, so that a crop tells where it was.
PLACES = np.stack([*np.indices((64, 128)), np.zeros((64, 128))], axis=-1).astype(np.uint8)


def crops(scale, number=300):
    """(top, left, bottom, right) of random crops of PLACES, read off their pixels, to within a pixel or two."""
    contents = tf.io.encode_png(PLACES)
    crop = tf.function(lambda seed: pixels.random_crop(contents, seed, (64, 64, 3), scale))
    images = np.stack([crop(tf.constant([5, position], tf.int64)) for position in range(number)])
    return np.concatenate([images[:, 0, 0, :2], images[:, -1, -1, :2]], axis=1).astype(float)


def test_random_crops_have_the_promised_areas_and_ratios():
    top, left, bottom, right = crops((0.25, 0.75)).T
    height, width = bottom - top + 1, right - left + 1
    area, ratio = height * width / (64 * 128), width / height
    assert 0.22 < area.min() < 0.3 and 0.6 < area.max() < 0.8
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.4
    assert top.min() <= 2 and bottom.max() >= 61 and left.min() <= 2 and right.max() >= 125
    assert len(np.unique(left)) > 30


def test_a_crop_that_cannot_be_is_the_whole_image():
    assert (np.abs(crops((1.0, 1.0), 2) - [0, 0, 63, 127]) <= 1).all()


@pytest.mark.parametrize("side", [40, 100, 300, 700])  # decoded at a fraction of 1, 2, 8 and 8
def test_large_jpegs_are_shrunk_without_aliasing(side):
    """Fine stripes of 0 and 255 are grey from afar; one pixel in several would be black or white."""
    rows, columns = np.indices((side, side))
    contents = jpeg(255 * ((rows + columns) % 2) if side > 40 else rows * 5)
    image = pixels.random_crop(contents, tf.constant([0, 0], tf.int64), (32, 32, 3), (1.0, 1.0)).numpy().astype(float)
    if side > 40:
        assert np.abs(image - 127.5).max() < 3
    else:
        assert np.abs(image[:, 0, 0] - (np.arange(32) * 40 / 32 + 0.125) * 5).max() < 5
