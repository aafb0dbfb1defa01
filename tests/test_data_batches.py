"""Training order and evaluation batches cover the examples they promise to cover."""

import numpy as np
import pytest

from jaxrobust.data import batches
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

LABELS = np.repeat([0, 1, 2], [10, 30, 63])
NEUTRAL = np.ones(3)


def order(epoch=0, *, batch_size=10, seed=0, sampling=NEUTRAL):
    return batches.epoch_order(LABELS, batch_size=batch_size, seed=seed, epoch=epoch, sampling=sampling)


@pytest.mark.parametrize("scale", [1.0, np.float32(1 / 3)])
def test_neutral_epoch_is_a_permutation_less_the_incomplete_batch(scale):
    indices = order(sampling=scale * NEUTRAL)
    assert indices.shape == (10, 10) and indices.dtype == np.int32
    assert len(np.unique(indices)) == 100
    assert indices.min() >= 0 and indices.max() < 103
    np.testing.assert_array_equal(indices, order())


def test_order_is_a_function_of_seed_and_epoch():
    np.testing.assert_array_equal(order(3, seed=5), order(3, seed=5))
    assert not np.array_equal(order(3, seed=5), order(4, seed=5))
    assert not np.array_equal(order(3, seed=5), order(3, seed=6))


def test_examples_left_out_change_from_epoch_to_epoch():
    assert len(np.unique(np.concatenate([order(e).ravel() for e in range(3)]))) == 103


def test_sampling_weights_set_the_share_of_each_class():
    weights = np.array([6.0, 1.0, 0.0])  # class shares proportional to 6 * 10, 1 * 30, 0 * 63
    drawn = np.concatenate([order(e, sampling=weights).ravel() for e in range(100)])
    counts = np.bincount(LABELS[drawn], minlength=3)
    assert counts.sum() == 10_000 and counts[2] == 0
    # Binomial(10000, 2/3) has a standard deviation of 47.
    assert abs(counts[0] - 10_000 * 2 / 3) < 4 * 47
    # Within a class every example is as likely: 667 expected, standard deviation 25.
    np.testing.assert_allclose(np.bincount(drawn, minlength=10)[:10], counts[0] / 10, atol=4 * 25)


@pytest.mark.parametrize(("num_examples", "batch_size", "steps"), [(103, 10, 10), (100, 10, 10), (7, 7, 1), (7, 1, 7)])
def test_steps_per_epoch(num_examples, batch_size, steps):
    assert batches.steps_per_epoch(num_examples, batch_size) == steps


@pytest.mark.parametrize("batch_size", [0, 104])
def test_batch_larger_than_the_training_set_is_an_error(batch_size):
    with pytest.raises(FieldError, match=rf"^train.batch_size = {batch_size}: 103 training .*; use 1 to 103"):
        order(batch_size=batch_size)


@pytest.mark.parametrize(
    ("number", "batch_size", "devices", "sizes"),
    [(23, 6, 2, [6] * 4), (18, 6, 2, [6] * 3), (3, 8, 2, [4]), (1, 8, 8, [8]), (5, 8, 1, [5]), (0, 4, 1, [])],
)
def test_padded_batches_hold_each_example_once_and_in_order(number, batch_size, devices, sizes):
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    split = Split(images, (np.arange(40) % 3).astype(np.int32))
    chosen = np.random.default_rng(0).permutation(40)[:number]
    given = list(batches.padded_batches(split, chosen, batch_size=batch_size, devices=devices))
    assert [len(labels) for _, labels, _ in given] == sizes
    counted = [ids[labels >= 0] for _, labels, ids in given]
    np.testing.assert_array_equal(np.concatenate([np.empty(0, int), *counted]), chosen)
    for images, labels, ids in given:
        assert images.dtype == np.uint8 and labels.dtype == ids.dtype == np.int32
        np.testing.assert_array_equal(images.ravel(), ids)
        np.testing.assert_array_equal(labels, np.where(labels >= 0, split.labels[ids], -1))
        assert (ids[labels < 0] == ids[0]).all()
