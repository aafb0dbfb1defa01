"""Which images an observation is made on. What it counts: test_train_steps.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data.dataset import Split
from jaxrobust.distributed import parallel
from jaxrobust.training import observation

IMAGES = np.arange(21, dtype=np.uint8).reshape(21, 1, 1, 1)
LABELS = np.arange(21, dtype=np.int32) % 3


class Selected:
    """An array that counts how often it is read, or some of its images, as encoded.EncodedImages stands for one."""

    def __init__(self, images, reads):
        self.images, self.reads = images, reads
        self.shape, self.dtype = images.shape, images.dtype

    def __getitem__(self, index):
        return Selected(self.images[index], self.reads)

    def __array__(self, dtype=None, copy=None):
        self.reads.append(len(self.images))
        return self.images


@parallel.step(*(parallel.REPLICATED, *3 * (parallel.SHARDED,), parallel.REPLICATED), out=parallel.REPLICATED)
def step(weights, images, labels, ids, key):
    """Sums by class of the images, times the weights."""
    member = (labels[:, None] == jnp.arange(3)[None]).astype(jnp.float32)
    values = weights * images.reshape(len(images), 1).astype(jnp.float32)
    return jax.lax.psum({"sum": (member * values).sum(0), "count": member.sum(0)}, parallel.AXIS)


@pytest.mark.parametrize("streamed", [False, True])
def test_images_in_memory_stay_on_the_devices_and_streamed_ones_are_read_again(streamed):
    mesh, reads = parallel.make_mesh(jax.devices()[:2]), []
    compiled = parallel.spmd(step, mesh)
    split = Split(Selected(IMAGES, reads) if streamed else IMAGES.copy(), LABELS)
    observer = observation.Observer(compiled, split, 3, batch_size=8, seed=0, mesh=mesh)
    if not streamed:
        split.images[:] = 0  # not read again
    for factor in (1.0, 2.0):
        found = observer(parallel.replicate(np.float32(factor), mesh))
        np.testing.assert_array_equal(found["count"], [7, 7, 7])
        np.testing.assert_array_equal(found["sum"], factor * np.array([63, 70, 77]))
    assert reads == ([4] * 12 if streamed else [])  # twice three batches of two devices
