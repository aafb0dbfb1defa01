"""Examples in blocks: how a long work over a split is divided over time and over processes.

for block, mine, images in each(split, ids, batch_size):
    merge(everything, mine, found)      # what each process has found for its part
"""

import jax
import numpy as np

from jaxrobust import hosts
from jaxrobust.data import streaming

# Examples are attacked, and their verdicts kept, in blocks of so many batches, of fewer in a long attack, if the states
# of their attack, some six images of float32 each, take no more than this.
BATCHES, LONG_BATCHES = 8, 2
LONG = 1000  # forward passes for an example that withstands
BYTES = 2**30


def each(split, ids, batch_size: int, passes: float = 0.0):
    """The examples `ids` of a split in blocks: (ids of the block, this process's part of them, their images).

    Images are decoded one block ahead.

    Args:
        passes: that the attack takes for an example that withstands.
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
    """Put what all processes have found, each for its own examples, into the array [N, ...] of all."""
    for ids, values in hosts.gather([np.asarray(mine).tolist(), np.asarray(found).tolist()]):
        if ids:
            everything[ids] = values
