"""Which examples make up which batch.

`epoch_order` gives the batches of a training epoch as indices, so that images which stay on the devices need not be
sent. `padded_batches` gives images to measure a model on between epochs. Evaluation makes its own batches, see
evaluation/batching.py.
"""

from collections.abc import Iterator

import numpy as np

from jaxrobust.data import randomness
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Full batches in `num_examples`; raises FieldError where there is none."""
    if not 1 <= batch_size <= num_examples:
        problem = f"{num_examples} training examples make no full batch"
        raise FieldError("train.batch_size", batch_size, problem, f"use 1 to {num_examples}")
    return num_examples // batch_size


def epoch_order(labels: np.ndarray, *, batch_size: int, seed: int, epoch: int, sampling: np.ndarray) -> np.ndarray:
    """The training examples of one epoch, a function of the arguments alone.

    With equal class weights this is a permutation of the training set, less the incomplete last batch: those examples
    (another few in every epoch) sit this epoch out. Otherwise examples are drawn with replacement, class c with a
    probability proportional to `sampling[c]` times its number of examples.

    Args:
        labels: [N] int, the labels of the training set.
        batch_size: examples per step, over all devices.
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


def padded_batches(split: Split, ids: np.ndarray, *, batch_size: int, devices: int) -> Iterator[tuple]:
    """Some examples of a split, each once and in the given order, in batches of one size.

    The size is `batch_size`, or less if all examples fit in a smaller batch that the devices share equally. The last
    batch is filled up with copies of its first example, whose label is -1: no prediction equals it.

    Args:
        ids: [N] int, the indices of the examples in the split.
        batch_size: the largest size allowed, a multiple of `devices`.

    Yields:
        (images [B, H, W, C] in the type of the split, labels [B] int32, ids [B] int32); those of a streamed split are
        not decoded yet.
    """
    size = min(batch_size, -(-len(ids) // devices) * devices)
    for start in range(0, len(ids), max(size, 1)):
        part = ids[start : start + size]
        padded = filled(part, size).astype(np.int32)
        labels = np.where(np.arange(size) < len(part), split.labels[padded], -1).astype(np.int32)
        yield split.images[padded], labels, padded


def filled(rows: np.ndarray, size: int) -> np.ndarray:
    """The rows [n, ...], n <= size, filled up to [size, ...] with copies of the first one, or zeros if n = 0."""
    if len(rows) == size:
        return rows
    fill = rows[:1] if len(rows) else np.zeros((1, *rows.shape[1:]), rows.dtype)
    return np.concatenate([rows, np.repeat(fill, size - len(rows), axis=0)])
