"""The validation split is stratified, disjoint from what remains, and a function of the seed."""

import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.data import randomness, splits
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

NAMES = ("a", "b", "c")


def unbalanced() -> Split:
    """5, 12 and 30 examples of three classes in random order; an image's one pixel is its id."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [5, 12, 30])).astype(np.int32)
    return Split(np.arange(47, dtype=np.uint8).reshape(47, 1, 1, 1), labels)


def test_hold_out_partitions_by_class_in_the_original_order():
    train = unbalanced()
    rest, held = splits.hold_out(train, 4, NAMES, np.random.default_rng(1))
    np.testing.assert_array_equal(held.counts(3), [4, 4, 4])
    np.testing.assert_array_equal(rest.counts(3), [1, 8, 26])
    rest_ids, held_ids = rest.images.ravel(), held.images.ravel()
    assert np.all(np.diff(rest_ids.astype(int)) > 0) and np.all(np.diff(held_ids.astype(int)) > 0)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest_ids, held_ids])), np.arange(47))
    np.testing.assert_array_equal(train.labels[held_ids], held.labels)


def test_hold_out_of_nothing_is_an_empty_split_of_the_right_shape():
    train = unbalanced()
    rest, held = splits.hold_out(train, 0, NAMES, np.random.default_rng(1))
    assert rest is train
    assert held.images.shape == (0, 1, 1, 1) and held.labels.shape == (0,)


def test_hold_out_errors():
    problem = "class 'a' has only 5 training examples; use at most 4"
    with pytest.raises(FieldError, match=f"^data.validation_per_class = 5: {problem}"):
        splits.hold_out(unbalanced(), 5, NAMES, np.random.default_rng(1))


def test_every_example_is_equally_likely_to_be_held_out():
    labels = np.zeros(10, int)
    times = sum(splits.stratified_mask(labels, 3, 1, np.random.default_rng(s)).astype(int) for s in range(1000))
    # Binomial(1000, 0.3) has a standard deviation of 14.5.
    np.testing.assert_allclose(times, 300, atol=4 * 14.5)


def test_validation_is_a_function_of_the_seed_and_test_is_not():
    one, same, other = (data.load("digits", validation_per_class=7, seed=s) for s in (1, 1, 2))
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(one, split).images, getattr(same, split).images)
    assert not np.array_equal(one.validation.images, other.validation.images)
    np.testing.assert_array_equal(one.test.images, other.test.images)
    np.testing.assert_array_equal(one.validation.counts(10), 7)


def test_streams_are_reproducible_and_distinct():
    def draw(*arguments):
        return randomness.generator(*arguments).integers(2**62)

    assert draw(0, "order", 3) == draw(0, "order", 3)
    assert len({draw(0, "order", 3), draw(0, "order", 4), draw(1, "order", 3), draw(0, "validation")}) == 4
    with pytest.raises(ValueError, match="seed is -1"):
        draw(-1, "order")


def test_a_subset_rounds_the_largest_remainders_up():
    """Shares of 2.0, 1.2 and 0.8 images."""
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    index = splits.stratified_subset(labels, 4, 3, np.random.default_rng(0))
    assert np.bincount(labels[index]).tolist() == [2, 1, 1] and (np.diff(index) > 0).all()
