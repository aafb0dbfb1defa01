"""Training batches of a set that does not fit in memory: read, decoded and cropped before the step that needs them.

    for images, labels in train_batches(data.train, order, first_step=step, seed=0, share=slice(0, 128), ...):

The host decodes, resizes and, if configured, cuts out random parts (`resized_crop`); the device does crops of fixed
size and flips (`augment`). Both depend only on (seed, step, position in the batch). So a batch is the same on one host
and on several, and after a restart, which starts at the right row of `order` and reads nothing before it.
"""

import collections
import concurrent.futures
import time
from collections.abc import Iterable, Iterator

import numpy as np

from jaxrobust.data import randomness
from jaxrobust.data.dataset import Split

_BATCHES_AHEAD = 2


def train_batches(
    split: Split,
    order: np.ndarray,
    *,
    first_step: int,
    seed: int,
    share: np.ndarray | slice,
    operations: tuple[str, ...],
    crop_scale: tuple[float, float],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """This host's share of each batch of `order`.

    Args:
        split: streamed, see `records.RecordImages`.
        order: [steps, batch] int, indices into the split: an epoch from `batches.epoch_order`, or the rest of one.
        first_step: number of the training step that `order[0]` belongs to.
        seed: the run's seed.
        share: the positions of the global batch that this host feeds.
        operations: `data.augment`; only `resized_crop` is done here.
        crop_scale: smallest and largest share of the image's area that `resized_crop` keeps.

    Yields:
        images: [positions in share, H, W, C] uint8.
        labels: [positions in share] int32.

    Raises:
        FieldError: a file has changed or is damaged.
    """
    # Imported here because it takes seconds, and resident data do not need it.
    import tensorflow as tf

    from jaxrobust.data import pixels, records

    source = split.images
    indices = order[:, share]
    positions = np.arange(order.shape[1])[share]
    flat = indices.reshape(-1)
    failures = []

    def read(chunk):
        """Payloads [n] and seeds [n, 2] of the next examples of `flat`."""
        at = np.arange(chunk * records.CHUNK, min((chunk + 1) * records.CHUNK, flat.size))
        steps = first_step + at // len(positions)
        try:
            payloads = source[flat[at]].payloads()
        except Exception as error:  # TensorFlow would report it only as a traceback in a message
            failures.append(error)
            raise
        step_seeds = {step: randomness.generator(seed, "resized_crop", step).integers(2**62) for step in set(steps)}
        seeds = np.stack([[step_seeds[step] for step in steps], positions[at % len(positions)]], axis=1)
        return np.array(payloads, object), seeds

    def read_chunk(chunk):
        payloads, seeds = tf.numpy_function(read, [chunk], (tf.string, tf.int64), stateful=False)
        return tf.ensure_shape(payloads, [None]), tf.ensure_shape(seeds, [None, 2])

    def decode(payload, seed):
        contents = pixels.encoded(payload)
        if "resized_crop" in operations:
            return pixels.random_crop(contents, seed, source.image_shape, crop_scale)
        return pixels.decode(contents, source.image_shape, source.resized)

    # One processor is left for the thread that feeds the device.
    threads = max(1, records.cores() - 1)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads + records.READERS  # readers wait most of the time
    options.threading.max_intra_op_parallelism = 1
    dataset = (
        tf.data.Dataset.range(-(-flat.size // records.CHUNK))
        .map(read_chunk, num_parallel_calls=records.READERS)
        .unbatch()
        .map(decode, num_parallel_calls=threads)
        .batch(len(positions), drop_remainder=True)
        .prefetch(_BATCHES_AHEAD)
        .with_options(options)
    )
    try:
        for row, images in zip(indices, dataset.as_numpy_iterator(), strict=True):
            yield images, split.labels[row]
    except records.ERRORS as error:
        raise (failures[0] if failures else records.unreadable(source.name, error)) from error


def images_per_second(
    split: Split,
    *,
    batch_size: int,
    operations: tuple[str, ...],
    crop_scale: tuple[float, float],
    seconds: float = 10.0,
) -> float:
    """How many training images this host can read and decode per second if it does nothing else.

    Args:
        seconds: how long to measure, after the first batches, which include the start-up.

    Others as for `train_batches`.
    """
    order = randomness.generator(0, "speed").integers(len(split), size=(1000, batch_size))
    stream = train_batches(
        split,
        order,
        first_step=0,
        seed=0,
        share=slice(0, batch_size),
        operations=operations,
        crop_scale=crop_scale,
    )
    # Batches that were decoded before the clock starts must not be counted.
    for _ in range(1 + _BATCHES_AHEAD):
        next(stream)
    started, done = time.monotonic(), 0
    for images, _ in stream:
        done += len(images)
        if time.monotonic() - started > seconds:
            break
    rate = done / (time.monotonic() - started)
    stream.close()
    return rate


def prefetch(items: Iterable, size: int) -> Iterator:
    """The same items in the same order, up to `size` of them made in advance by a thread.

    An error in making an item is raised when that item is requested. When the consumer stops, the thread stops after
    its current item.
    """
    items, end = iter(items), object()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ahead = collections.deque(pool.submit(next, items, end) for _ in range(size))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(pool.submit(next, items, end))
                yield item
        finally:
            for future in ahead:
                future.cancel()
