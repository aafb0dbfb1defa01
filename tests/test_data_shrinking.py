"""Smaller images by the means of blocks."""

import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.data.dataset import Split
from jaxrobust.data.shrinking import shrunk
from jaxrobust.errors import FieldError


def test_each_pixel_is_the_mean_of_its_block():
    images = np.random.default_rng(0).random((3, 6, 4, 2), np.float32)
    small = shrunk(Split(images, np.arange(3, dtype=np.int32)), 2).images
    expected = [[images[:, 3 * i : 3 * i + 3, 2 * j : 2 * j + 2].mean((1, 2)) for j in range(2)] for i in range(2)]
    np.testing.assert_allclose(small, np.moveaxis(expected, 2, 0), rtol=1e-6)
    whole = shrunk(Split(np.full((1, 4, 4, 1), 255, np.uint8), np.zeros(1, np.int32)), 2).images
    assert whole.dtype == np.uint8 and (whole == 255).all()


def test_a_data_set_is_brought_to_a_side_and_described_so():
    small, usual = data.load("digits", image_size=4), data.load("digits")
    assert small.image_shape == data.describe("digits", image_size=4).image_shape == (4, 4, 1)
    np.testing.assert_array_equal(small.test.labels, usual.test.labels)
    same = data.load("digits", image_size=8)
    np.testing.assert_array_equal(same.train.images, usual.train.images)
    with pytest.raises(FieldError, match=r"^data.image_size = 3: does not divide images of 8 x 8 pixels"):
        data.load("digits", image_size=3)
