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


@pytest.mark.parametrize(("size", "batch_size", "expected"), [(23, 5, 5), (20, 5, 4), (3, 8, 1), (1, 1, 1), (0, 4, 0)])
def test_padded_batches_cover_every_example_once(size, batch_size, expected):
    images = np.arange(size, dtype=np.uint8).reshape(size, 1, 1, 1)
    split = Split(images, (np.arange(size) % 3).astype(np.int32))
    given = list(batches.padded_batches(split, batch_size))
    assert len(given) == expected
    ids = [b["ids"][b["mask"]] for b in given]
    np.testing.assert_array_equal(np.concatenate([np.empty(0, int), *ids]), np.arange(size))
    for batch in given:
        assert batch["images"].shape == (batch_size, 1, 1, 1) and batch["images"].dtype == np.uint8
        assert batch["ids"].dtype == batch["labels"].dtype == np.int32 and batch["mask"].dtype == bool
        np.testing.assert_array_equal(batch["images"].ravel(), batch["ids"])
        np.testing.assert_array_equal(batch["labels"], split.labels[batch["ids"]])
        assert not batch["ids"][~batch["mask"]].any()


def test_padded_batches_rejects_an_empty_batch():
    split = Split(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32))
    with pytest.raises(FieldError, match=r"^eval.batch_size = 0"):
        next(batches.padded_batches(split, 0))
