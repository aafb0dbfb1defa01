"""A description equals what loading finds, needs no data where TFDS or its documentation tells, and asks otherwise."""

import dataclasses
import sys

import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.errors import FieldError

MIXTURE = data.Gaussians(20, (-0.1, 0.1), (1.0, 2.0), (0.5, 0.5), 300, 100, 0.02)


@pytest.mark.parametrize("imbalance", ["none", "exponential", "step"])
@pytest.mark.parametrize("name", ["digits", "gaussians", "arrays"])
def test_equals_what_is_loaded(name, imbalance, tmp_path):
    if name == "arrays":
        name = f"arrays:{tmp_path / 'data.npz'}"
        images = np.random.default_rng(0).random((60, 6, 5, 3))
        np.savez(
            tmp_path / "data.npz",
            train_images=images,
            train_labels=np.minimum(np.arange(60) % 5, 3),
            test_images=images,
            test_labels=np.arange(60) % 4,
        )
    arguments = {
        "validation_per_class": 7,
        "seed": 3,
        "gaussians": MIXTURE if name == "gaussians" else None,
        "imbalance_profile": imbalance,
        "imbalance_ratio": 0.2,
    }
    loaded, described = data.load(name, **arguments), data.describe(name, **arguments)
    random = data.random_dataset(described)
    for dataset in (loaded, random):
        assert described.image_shape == dataset.image_shape
        assert described.num_classes == dataset.num_classes
        assert described.train_examples == len(dataset.train)
        assert described.pixel_type == dataset.train.images.dtype == random.train.images.dtype
    assert random.train.counts(random.num_classes).min() > 0


@pytest.mark.parametrize("tensorflow", [True, False])
def test_a_known_set_needs_neither_data_nor_tensorflow(tensorflow, tmp_path, monkeypatch):
    if not tensorflow:
        monkeypatch.setitem(sys.modules, "tensorflow", None)
        monkeypatch.delitem(sys.modules, "jaxrobust.data.sources.tfds", raising=False)
    described = data.describe("tfds:cifar10", data_dir=str(tmp_path), validation_per_class=100)
    assert described == data.Description("tfds:cifar10", (32, 32, 3), 10, 49_000)
    assert not data.is_there("tfds:cifar10", str(tmp_path)) and data.is_there("digits")


def test_a_long_tail_of_a_set_that_is_not_there(tmp_path):
    """By the published sizes of imbalanced CIFAR-10; by the class sizes of SVHN, of which 9 is the rarest."""

    def examples(name, **options):
        options = {"data_dir": str(tmp_path), "imbalance_profile": "exponential", "imbalance_ratio": 0.01} | options
        return data.describe(name, **options).train_examples

    assert examples("tfds:cifar10") == 5000 + 2997 + 1796 + 1077 + 645 + 387 + 232 + 139 + 83 + 50
    assert examples("tfds:svhn_cropped", imbalance_profile="step") == 4948 + 10585 + 13861 + 8497 + 7458 + 5 * 138
    assert examples("arrays:nowhere.npz", images=(100, 4, 5, 1), num_classes=2, imbalance_ratio=0.1) == 50 + 5
    with pytest.raises(FieldError, match=r"data.imbalance_ratio.*use at least 0.000202"):
        examples("tfds:cifar10", imbalance_ratio=1e-4)


def test_what_is_unknown_has_to_be_described(tmp_path):
    with pytest.raises(FieldError, match="--images"):
        data.describe("tfds:imagenet2012", data_dir=str(tmp_path))  # images of many sizes
    sized = data.describe("tfds:imagenet2012", data_dir=str(tmp_path), image_size=224)
    assert (sized.image_shape, sized.train_examples) == ((224, 224, 3), 1_281_167)
    with pytest.raises(FieldError, match="--images"):
        data.describe("tfds:beans", data_dir=str(tmp_path))  # size known only when prepared
    given = data.describe("tfds:beans", data_dir=str(tmp_path), images=(1034, 500, 500, 3))
    assert (given.num_classes, given.train_examples) == (3, 1034)
    given = data.describe("arrays:nowhere.npz", images=(100, 4, 5, 1), num_classes=7)
    assert given == data.Description("arrays:nowhere.npz", (4, 5, 1), 7, 100)
    with pytest.raises(FieldError, match="validation_per_class"):
        data.describe("digits", validation_per_class=200)


def test_random_data_of_a_large_set_stay_small():
    large = data.Description("large", (224, 224, 3), 1000, 1_281_167)
    random = data.random_dataset(large, largest_bytes=2**20)
    assert len(random.train) == 1000 and random.num_classes == 1000
    small = data.random_dataset(dataclasses.replace(large, image_shape=(4, 4, 3)), largest_bytes=2**20)
    assert len(small.train) == 2**20 // 48
