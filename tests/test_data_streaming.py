"""The stream of training batches: the same on one host and on several, and after a restart."""

import threading
import time

import numpy as np
import pytest
from streamed_sets import IMAGES, LABELS, blank, load, shards

from jaxrobust.data import batches, streaming
from jaxrobust.errors import FieldError

BATCH = 8
CROP = {"operations": ("resized_crop", "flip"), "crop_scale": (0.08, 1.0)}
PLAIN = {"operations": ("crop",), "crop_scale": (0.08, 1.0)}


def stream(split, order, first_step=0, seed=0, share=slice(0, BATCH), **options):
    """(images [steps, positions, H, W, C], labels [steps, positions])"""
    batches = streaming.train_batches(
        split, order, first_step=first_step, seed=seed, share=share, **{**CROP, **options}
    )
    images, labels = zip(*batches, strict=True)
    return np.stack(images), np.stack(labels)


def order_of(split):
    return batches.epoch_order(split.labels, batch_size=BATCH, seed=0, epoch=0, sampling=np.ones(3))


def test_without_random_crops_it_is_the_images_in_their_order(folder):
    split = load(folder).train
    order = order_of(split)
    images, labels = stream(split, order, **PLAIN)
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    np.testing.assert_array_equal(images, IMAGES[order])
    np.testing.assert_array_equal(labels, LABELS[order])


@pytest.mark.parametrize("name, image_size", [("fixed", 0), ("varied", 24)])
def test_hosts_share_the_batch_of_one_host(folder, name, image_size):
    split = load(folder, name, image_size=image_size).train
    order = order_of(split)
    images, labels = stream(split, order)
    assert images.shape == (len(split) // BATCH, BATCH, *split.images.image_shape)
    for share in (slice(0, 3), slice(3, 8), slice(0, 8, 2)):
        part_images, part_labels = stream(split, order, share=share)
        np.testing.assert_array_equal(part_images, images[:, share])
        np.testing.assert_array_equal(part_labels, labels[:, share])


def test_a_restart_gives_the_rest_and_reads_nothing_before_it(folder):
    split = load(folder).train
    order = np.arange(48).reshape(6, BATCH)
    whole = stream(split, order, first_step=12)
    blank(shards(folder)[0])  # the records of the first two steps
    rest = stream(split, order[3:], first_step=15)
    for expected, found in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(found, expected[3:])
    message = r"^data.name = 'tfds:fixed': example \d+ of split 'train' cannot be read"
    with pytest.raises(FieldError, match=message) as error:
        stream(split, order)
    assert "\n" not in str(error.value)


def test_every_step_seed_and_position_crops_otherwise(folder):
    split = load(folder, "varied", image_size=24).train
    order = np.zeros((3, BATCH), int)
    images, _ = stream(split, order)
    assert len(np.unique(images.reshape(3 * BATCH, -1), axis=0)) == 3 * BATCH
    np.testing.assert_array_equal(stream(split, order)[0], images)
    assert (stream(split, order, seed=1)[0] != images).any(axis=(2, 3, 4)).all()
    np.testing.assert_array_equal(stream(split, order[:2], first_step=1)[0], images[1:])


def test_errors_of_reading_come_as_they_are(folder):
    split = load(folder).train
    for file in shards(folder):
        blank(file)
    message = r"^data.name = 'tfds:fixed': example \d+ of split 'train' cannot be read \(RuntimeError"
    with pytest.raises(FieldError, match=message):
        stream(split, order_of(split))


def test_no_steps_left_and_a_stream_that_is_left_early(folder):
    split = load(folder).train
    assert list(streaming.train_batches(split, order_of(split)[6:], first_step=6, seed=0, share=slice(8), **CROP)) == []
    before = time.monotonic()
    endless = streaming.train_batches(
        split, np.zeros((100_000, BATCH), int), first_step=0, seed=0, share=slice(8), **CROP
    )
    next(endless)
    endless.close()
    assert time.monotonic() - before < 100


def test_speed_is_measured(folder):
    assert streaming.images_per_second(load(folder).train, batch_size=BATCH, seconds=0.2, **CROP) > 0


def test_prefetch_keeps_the_order_and_runs_ahead():
    made = []

    def items():
        for i in range(6):
            made.append(i)
            yield i

    ahead = streaming.prefetch(items(), 3)
    assert next(ahead) == 0
    deadline = time.monotonic() + 100
    while made != [0, 1, 2, 3] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2, 3]
    assert list(ahead) == [1, 2, 3, 4, 5] and list(streaming.prefetch([], 2)) == []


def test_prefetch_hands_errors_on_and_ends_with_its_consumer():
    def failing():
        yield 1
        raise FieldError("a", 1, "is wrong", "mend it")

    ahead = streaming.prefetch(failing(), 4)
    assert next(ahead) == 1
    with pytest.raises(FieldError, match="is wrong"):
        next(ahead)

    before = set(threading.enumerate())
    endless = streaming.prefetch(iter(int, 1), 2)
    next(endless)
    endless.close()
    assert set(threading.enumerate()) <= before
