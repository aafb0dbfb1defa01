"""Class statistics of a split that is not trained on, for remedies that are controlled by them."""

import numpy as np

from jaxrobust import data
from jaxrobust.data import batches, randomness
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError
from jaxrobust.training import class_statistics


class Observer:
    """Statistics of a split under the attack of the training: observer(weights) -> dict, see class_statistics.py.

    Random numbers, drawn from `seed`, are the same each time, and the training does not use them. `step` is the
    compiled step.make_observe_step, `batch_size` a multiple of the devices. Raises FieldError if a class has no image
    in the split.
    """

    def __init__(self, step, split: data.Split, num_classes: int, *, batch_size: int, seed: int, mesh):
        missing = np.flatnonzero(split.counts(num_classes) == 0)
        if missing.size:
            problem = f"leaves class {missing[0]} without a validation image, which the remedy needs"
            raise FieldError("data.validation_per_class", 0, problem, "raise it, or give the class more images")
        self._step, self._split, self._mesh, self._num_classes = step, split, mesh, num_classes
        self._key = randomness.key(seed, randomness.Purpose.OBSERVATION)
        self._batch_size = batch_size
        # Images that are in the host's memory stay on the devices too, where they take less than the training set. The
        # images of a streamed set may not fit: they are read and decoded each time.
        self._resident = None if split.streamed else list(self._batches())

    def _batches(self):
        """Images, labels and ids on the devices; see batches.padded_batches."""
        ids = np.arange(len(self._split))
        for batch in batches.padded_batches(self._split, ids, batch_size=self._batch_size, devices=self._mesh.size):
            yield parallel.shard(batch, self._mesh)

    def __call__(self, weights) -> dict:
        """To be called by all processes."""
        total = None
        for batch in self._resident or self._batches():
            sums = self._step(weights, *batch, self._key)
            total = sums if total is None else class_statistics.add(total, sums)
        return total
