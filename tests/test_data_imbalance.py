"""Long-tailed subsets have the published sizes, are nested, and leave everything but the training set alone."""

import numpy as np
import pytest
import streamed_sets

from jaxrobust import config as config_lib, data
from jaxrobust.config import objects
from jaxrobust.data import imbalance
from jaxrobust.data.batches import steps_per_epoch
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

MIXTURE = data.Gaussians(4, (-0.2, 0.0, 0.2), (1.0, 1.0, 1.0), (0.2, 0.5, 0.3), 400, 50, 0.02)


def test_published_sizes_of_cifar10():
    """Those of LDAM-DRW's imbalanced CIFAR-10."""
    equal = np.full(10, 5000)
    published = {
        0.02: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
        0.01: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    }
    for ratio, sizes in published.items():
        assert imbalance.sizes(equal, "exponential", ratio).tolist() == sizes
    assert imbalance.sizes(equal, "step", 0.01).tolist() == [5000] * 5 + [50] * 5


@pytest.mark.parametrize("profile", ["exponential", "step"])
@pytest.mark.parametrize("num_classes", [2, 3, 7, 100, 1000])
def test_from_the_largest_to_the_smallest(profile, num_classes):
    sizes = imbalance.sizes(np.full(num_classes, 1000), profile, 0.05)
    assert sizes[0] == 1000 and sizes[-1] == 50 and np.all(np.diff(sizes) <= 0)
    assert np.array_equal(imbalance.sizes(np.full(num_classes, 1000), profile, 1.0), np.full(num_classes, 1000))
    if profile == "step":
        assert np.count_nonzero(sizes == 1000) == -(-num_classes // 2)


def test_whole_numbers_do_not_fall_to_rounding():
    assert imbalance.sizes(np.full(4, 1000), "exponential", 0.001).tolist() == [1000, 100, 10, 1]
    assert imbalance.sizes(np.full(3, 10_000), "exponential", 0.0001).tolist() == [10_000, 100, 1]


def test_unequal_classes_keep_no_more_than_they_have():
    """Shares are those of the largest class, 100, 50 and 25, wherever that is."""
    assert imbalance.sizes(np.array([60, 100, 10]), "exponential", 0.25).tolist() == [60, 50, 10]
    assert imbalance.sizes(np.array([60, 100, 90]), "step", 0.25).tolist() == [60, 100, 25]
    assert imbalance.sizes(np.array([60, 100, 90]), "none", 0.25).tolist() == [60, 100, 90]


def unequal() -> Split:
    """40, 90 and 60 examples in random order; an image's one pixel is its id."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [40, 90, 60])).astype(np.int32)
    return Split(np.arange(190, dtype=np.uint8).reshape(190, 1, 1, 1), labels)


def kept(profile, ratio, seed=0) -> set:
    train = unequal()
    names, rng = ("a", "b", "c"), np.random.default_rng(seed)
    part = imbalance.subset(train, names, profile=profile, ratio=ratio, rng=rng)
    ids = part.images.ravel()
    assert np.all(np.diff(ids.astype(int)) > 0), "the original order"
    np.testing.assert_array_equal(part.labels, train.labels[ids])
    np.testing.assert_array_equal(part.counts(3), imbalance.sizes(train.counts(3), profile, ratio))
    return set(ids.tolist())


@pytest.mark.parametrize("profile", ["exponential", "step"])
def test_a_smaller_ratio_keeps_a_subset(profile):
    larger = kept(profile, 1.0)
    for ratio in (0.6, 0.3, 0.1, 0.02):
        smaller = kept(profile, ratio)
        assert smaller < larger
        larger = smaller


def test_the_draw_is_the_seeds_and_even():
    assert kept("step", 0.5) == kept("step", 0.5) != kept("step", 0.5, seed=1)
    times = np.zeros(190)
    for seed in range(400):
        times[list(kept("step", 0.5, seed))] += 1
    rare = unequal().labels == 2
    assert np.all(times[~rare] == 400)
    # Each with probability 45 / 60; binomial(400, 0.75) has a standard deviation of 8.7.
    np.testing.assert_allclose(times[rare], 300, atol=5 * 8.7)


def test_none_is_the_split_itself():
    train = unequal()
    assert imbalance.subset(train, "abc", profile="none", ratio=0.1, rng=np.random.default_rng(0)) is train


def test_a_class_without_an_example_is_an_error():
    with pytest.raises(FieldError, match=r"^data.imbalance_ratio = 0.01: .* class 'c': .*; use at least 0.0112$"):
        kept("exponential", 0.01)
    assert kept("exponential", 0.0112) == kept("exponential", 1 / 90)


@pytest.mark.parametrize("name", ["digits", "gaussians"])
def test_validation_and_test_stay_as_they_are(name):
    options = {"validation_per_class": 9, "seed": 5, "gaussians": MIXTURE if name == "gaussians" else None}
    whole = data.load(name, **options)
    long_tailed = data.load(name, **options, imbalance_profile="exponential", imbalance_ratio=0.1)
    for split in ("validation", "test"):
        np.testing.assert_array_equal(getattr(whole, split).images, getattr(long_tailed, split).images)
    num_classes = whole.num_classes
    sizes = imbalance.sizes(whole.train.counts(num_classes), "exponential", 0.1)
    np.testing.assert_array_equal(long_tailed.train.counts(num_classes), sizes)
    assert {image.tobytes() for image in long_tailed.train.images} < {image.tobytes() for image in whole.train.images}
    other = data.load(name, **options, imbalance_profile="exponential", imbalance_ratio=0.2)
    fingerprints = [dataset.fingerprint() for dataset in (whole, long_tailed, other)]
    assert all(fingerprints.count(fingerprint) == 1 for fingerprint in fingerprints)


@pytest.mark.parametrize("name", ["fixed", "varied"])
def test_streamed_sets(folder, name):
    """Without decoding an image; the description tells the size, and so the steps of an epoch."""
    config = config_lib.default()
    config.data.name, config.data.data_dir = f"tfds:{name}", str(folder)
    config.data.streaming, config.data.image_size = True, 8
    config.data.imbalance, config.data.imbalance_ratio = "exponential", 0.25
    streamed, whole = objects.dataset(config), streamed_sets.load(folder, name, image_size=8)
    assert streamed.streamed and len(streamed.test) == len(whole.test)
    sizes = imbalance.sizes(whole.train.counts(3), "exponential", 0.25)
    np.testing.assert_array_equal(streamed.train.counts(3), sizes)
    assert objects.description(config).train_examples == len(streamed.train) == sizes.sum()
    assert steps_per_epoch(objects.description(config).train_examples, 8) == steps_per_epoch(len(streamed.train), 8)
    assert streamed.fingerprint() != whole.fingerprint()
    images = np.asarray(whole.train.images)
    found = [np.flatnonzero((images == image).all((1, 2, 3))).item() for image in np.asarray(streamed.train.images)]
    assert found == sorted(found)
    np.testing.assert_array_equal(whole.train.labels[found], streamed.train.labels)
    if name == "fixed":
        config.data.streaming, config.data.image_size = False, 0
        resident = objects.dataset(config)
        np.testing.assert_array_equal(resident.train.images, streamed_sets.IMAGES[found])  # the same draw
        assert objects.description(config).train_examples == len(resident.train)
