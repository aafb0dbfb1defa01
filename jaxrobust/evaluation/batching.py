"""Splits evaluation into blocks, shared among processes, and blocks into batches of fixed sizes.

for block, mine, images in each(split, ids, batch_size):
    for rows, size in row_batches(len(mine), batch_sizes(batch_size, mesh.size)): ...   # of two sizes
    merge(everything, mine, found)      # combine the results of all processes
"""

from collections.abc import Iterator

import jax
import numpy as np

from jaxrobust.data import batches, streaming
from jaxrobust.distributed import hosts, parallel

# Batches per block; after each block the predictions are saved, so a long attack has shorter blocks.
BATCHES, LONG_BATCHES = 8, 2
LONG = 1000  # an attack is long if a robust example takes at least this many forward passes
BYTES = 2**30  # at most, for the attack states of a block: about six float32 images per example
SMALL_SHARE = 8  # the small batch is the large one divided by this


def each(split, ids, batch_size: int, forward_passes: float = 0.0):
    """The examples `ids` of a split in blocks: (ids of the block, ids of this process's part, images of that part).

    Images are decoded one block ahead. `forward_passes` are those of an example that stays correct.
    """
    bytes_of_one = 6 * 4 * int(np.prod(split.images.shape[1:]))
    most = BATCHES if forward_passes < LONG else LONG_BATCHES
    size = batch_size * max(1, min(most, BYTES // (batch_size * bytes_of_one)))

    def load():
        for start in range(0, len(ids), size):
            block = ids[start : start + size]
            mine = np.array_split(block, jax.process_count())[jax.process_index()]
            yield block, mine, np.asarray(split.images[mine])

    return streaming.prefetch(load(), 1)


def merge(everything, mine, found) -> None:
    """Write the results `found` of every process, for its examples `mine`, into the array `everything` [N, ...]."""
    for ids, values in hosts.gather([np.asarray(mine).tolist(), np.asarray(found).tolist()]):
        if ids:
            everything[ids] = values


def batch_sizes(batch_size: int, devices: int) -> tuple[int, int]:
    """The large and the small batch size, multiples of the number of devices."""
    return batch_size, -(-batch_size // (SMALL_SHARE * devices)) * devices


def pack(count: int, large: int, small: int) -> Iterator[tuple[int, int]]:
    """Batches for `count` examples, as (first example, size): large ones, then small ones if these suffice."""
    start = 0
    while start < count:
        size = large if count - start > large - small else small
        yield start, size
        start += size


def row_batches(count: int, sizes) -> Iterator[tuple[np.ndarray, int]]:
    """Batches for `count` examples of this process: (rows, size), equally many on all; `sizes` are over all devices."""
    for start, size in pack(max(hosts.gather(count)), *(size // jax.process_count() for size in sizes)):
        yield np.arange(start, min(start + size, count)), size


def padded(tree, size: int, mesh):
    """Global arrays, to which this process contributes `size` rows: those of the arrays in `tree`, and padding."""
    tree = jax.tree.map(lambda rows: batches.filled(rows, size), tree)
    return parallel.join(tree, mesh, size * jax.process_count())
