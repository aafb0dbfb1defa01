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
        split: streamed, see `encoded.EncodedImages`.
        order: [steps, batch] int, indices into the split: an epoch from `batches.epoch_order`, or the rest of one.
        first_step: number of the training step that `order[0]` belongs to.
        share: the positions of the global batch that this host feeds.
        operations: `data.augment`; only `resized_crop` is done here.
        crop_scale: smallest and largest share of the image's area that `resized_crop` keeps.

    Yields:
        images [positions in share, H, W, C] uint8, labels [positions in share] int32.

    Raises:
        FieldError: a file is missing or damaged.
    """
    import grain  # here: it takes seconds, and resident data do not need it

    positions = np.arange(order.shape[1])[share]

    def batch(at: int) -> np.ndarray:
        images = split.images[order[at, share]]
        if "resized_crop" not in operations:
            return np.asarray(images)
        step_seed = randomness.generator(seed, "resized_crop", first_step + at).integers(2**62)
        seeds = np.stack([np.full_like(positions, step_seed), positions], axis=1)
        return images.random_crops(seeds, crop_scale)

    # One element is one batch, whose images are decoded in parallel: two threads, so that one reads while one decodes.
    options = grain.ReadOptions(num_threads=_BATCHES_AHEAD, prefetch_buffer_size=_BATCHES_AHEAD)
    batches = grain.MapDataset.range(len(order)).map(batch).to_iter_dataset(options)
    for row, images in zip(order[:, share], batches, strict=True):
        yield images, split.labels[row]


def images_per_second(
    split: Split,
    *,
    batch_size: int,
    operations: tuple[str, ...],
    crop_scale: tuple[float, float],
    seconds: float = 10.0,
) -> float:
    """How many training images this host can read and decode per second if it does nothing else; see `train_batches`.

    It is measured for `seconds`, after the first batches, which include the start-up.
    """
    order = randomness.generator(0, "speed").integers(len(split), size=(1000, batch_size))
    options = {"share": slice(0, batch_size), "operations": operations, "crop_scale": crop_scale}
    stream = train_batches(split, order, first_step=0, seed=0, **options)
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
