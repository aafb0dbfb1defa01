"""Splits evaluation into blocks, shared among processes.

for block, mine, images in each(split, ids, batch_size):
    merge(everything, mine, found)      # combine the results of all processes
"""

import jax
import numpy as np

from jaxrobust.data import streaming
from jaxrobust.distributed import hosts

# Batches per block; after each block the verdicts are saved, so a long attack has shorter blocks.
BATCHES, LONG_BATCHES = 8, 2
LONG = 1000  # an attack is long if a robust example takes at least this many forward passes
BYTES = 2**30  # at most, for the attack states of a block: about six float32 images per example


def each(split, ids, batch_size: int, passes: float = 0.0):
    """The examples `ids` of a split in blocks: (ids of the block, ids of this process's part, images of that part).

    Images are decoded one block ahead.

    Args:
        passes: forward passes that the attack takes for an example that stays correct.
    """
    bytes_of_one = 6 * 4 * int(np.prod(split.images.shape[1:]))
    most = BATCHES if passes < LONG else LONG_BATCHES
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
