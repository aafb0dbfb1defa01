"""Class statistics of a split that is not trained on, for remedies that judge by it."""

import jax
import numpy as np

from jaxrobust import data, parallel, statistics
from jaxrobust.errors import FieldError


class Observer:
    """Statistics of a split under the attack of the training: observer(weights) -> dict, see statistics.py.

    Images have the same random numbers each time, and none that the training uses.

    Args:
        step: the compiled step, see train_steps.make_observe_step.
        batch_size: over all devices, a multiple of their number.
        seed: draws the random starts.

    Raises:
        FieldError: a class has no image in the split.
    """

    def __init__(self, step, split: data.Split, num_classes: int, *, batch_size: int, seed: int, mesh):
        missing = np.flatnonzero(split.counts(num_classes) == 0)
        if missing.size:
            problem = f"leaves class {missing[0]} without a validation image, which the remedy looks at"
            raise FieldError("data.validation_per_class", 0, problem, "raise it, or give the class more images")
        self._step, self._split, self._mesh, self._num_classes = step, split, mesh, num_classes
        # 0, 1 and 3 are of the initial weights, the training and its check for overfitting.
        self._key = jax.random.fold_in(jax.random.key(seed), 4)
        self._size = min(batch_size, -(-len(split) // mesh.size) * mesh.size)

    def __call__(self, weights) -> dict:
        """To be called by all processes."""
        total = None
        for start in range(0, len(self._split), self._size):
            ids = np.arange(start, start + self._size)
            inside = ids < len(self._split)
            ids = np.where(inside, ids, start).astype(np.int32)
            labels = np.where(inside, self._split.labels[ids], -1).astype(np.int32)
            batch = parallel.shard((self._split.images[ids], labels, ids), self._mesh)
            sums = self._step(weights, *batch, self._key)
            total = sums if total is None else statistics.add(total, sums)
        return total
