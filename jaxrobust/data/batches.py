"""The host side of the resident pipeline: which examples make up which batch.

Training images stay on the device; the host sends indices. Evaluation goes over a split once, in order.
"""

from collections.abc import Iterator

import numpy as np

from jaxrobust.data import randomness
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Full batches in `num_examples`; raises FieldError where there is none."""
    if not 1 <= batch_size <= num_examples:
        raise FieldError(
            "train.batch_size",
            batch_size,
            f"{num_examples} training examples make no full batch",
            f"use 1 to {num_examples}",
        )
    return num_examples // batch_size


def epoch_order(labels: np.ndarray, *, batch_size: int, seed: int, epoch: int, sampling: np.ndarray) -> np.ndarray:
    """The training examples of one epoch, a function of the arguments alone.

    With equal class weights this is a permutation of the training set, less the incomplete last batch: those examples
    (another few in every epoch) sit this epoch out. Otherwise examples are drawn with replacement, class c with a
    probability proportional to `sampling[c]` times its number of examples.

    Args:
        labels: [N] int, the labels of the training set.
        batch_size: examples per step, over all devices.
        seed: the run's seed.
        epoch: which epoch.
        sampling: [C] non-negative weight of an example of each class; only ratios matter.

    Returns:
        [steps_per_epoch, batch_size] int32 indices into the training set.
    """
    steps = steps_per_epoch(len(labels), batch_size)
    rng = randomness.generator(seed, "order", epoch)
    sampling = np.asarray(sampling, np.float64)
    if np.all(sampling == sampling[0]):
        order = rng.permutation(len(labels))[: steps * batch_size]
    else:
        weights = sampling[labels]
        order = rng.choice(len(labels), steps * batch_size, p=weights / weights.sum())
    return order.astype(np.int32).reshape(steps, batch_size)


def padded_batches(split: Split, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of one size that hold every example of a split exactly once, in order.

    The last batch is filled up with copies of example 0, where `mask` is false. Images may be views: do not write.

    Yields:
        images: [batch_size, H, W, C] in the type of the split.
        labels: [batch_size] int32.
        mask: [batch_size] bool, true for examples that count.
        ids: [batch_size] int32, index in the split.
    """
    if batch_size < 1:
        raise FieldError("eval.batch_size", batch_size, "is no batch", "use at least 1")
    for start in range(0, len(split), batch_size):
        size = min(batch_size, len(split) - start)
        ids = np.zeros(batch_size, np.int32)
        ids[:size] = np.arange(start, start + size)
        # A slice is a view; only the last batch has to be copied together.
        part = split.take(ids) if size < batch_size else split.take(slice(start, start + size))
        yield {"images": part.images, "labels": part.labels, "mask": np.arange(batch_size) < size, "ids": ids}
