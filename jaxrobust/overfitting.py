"""Catastrophic overfitting: training against one step learns to withstand that step, and loses all other robustness.

It comes within an epoch, and the training's own accuracy rises meanwhile (Wong et al. 2020, Andriushchenko & Flammarion
2020). So after each epoch a few training images are attacked both by the training's step and by PGD of some steps:

    check = Check(step, split, num_classes, radius=..., batch_size=..., seed=..., mesh=mesh)
    single_step, pgd = check(state)
    if has_happened(single_step, pgd, earlier, check.examples): ...

The images and their random numbers are the same after each epoch, and none that the training uses.
"""

import jax
import numpy as np

from jaxrobust import data, parallel
from jaxrobust.classwise import wilson_interval
from jaxrobust.data import batches, randomness, splits

# Of PGD, at a quarter of the radius each, as in the early stopping of Wong et al. 2020.
STEPS = 5
# Passes for an image are 19, so that this is 2 % of an epoch of 50,000 images with the 5 passes of one-step training.
EXAMPLES = 256
# PGD's accuracy has fallen if it is below this share of its best so far, and of that under the single step. Wong et al.
# stop at a fall by 20 points between epochs; a share serves data where no model gets that far.
FALL = 0.5
# Below this share of the accuracy under the single step it has gone whatever it was before, as in the first epoch.
GONE = 0.1


class Check:
    """Accuracy of the weights on fixed training images under two attacks.

    Args:
        step: the compiled counts, see steps.make_withstood_step, of the training's step and of PGD.
        train: the training split.
        radius: in pixel units, before the remedy's scaling.
        batch_size: the largest over all devices, a multiple of their number.
        seed: draws the images and the random starts.
    """

    def __init__(self, step, train: data.Split, num_classes: int, *, radius: float, batch_size: int, seed: int, mesh):
        rng = randomness.generator(seed, "overfitting check")
        index = splits.stratified_subset(train.labels, EXAMPLES, num_classes, rng)
        self._step, self._mesh, self._radius = step, mesh, radius
        # 0 and 1 are of the initial weights and of the training.
        self._key = jax.random.fold_in(jax.random.key(seed), 3)
        self.examples = len(index)
        padded = batches.padded_batches(train, index, batch_size=batch_size, devices=mesh.size)
        # They stay on the devices: labels on the host, then images, labels and ids.
        self._batches = [(labels, *parallel.shard((images, labels, ids), mesh)) for images, labels, ids in padded]

    def __call__(self, state) -> tuple[float, float]:
        """Accuracy under the training's step, and under PGD. To be called by all processes."""
        scale, counts = np.asarray(state.knobs.radius_scale), []
        for labels, *batch in self._batches:
            radius = parallel.shard((self._radius * scale[labels]).astype(np.float32), self._mesh)
            counts.append(self._step(state.weights, *batch, radius, self._key))
        single_step, pgd = np.sum(jax.device_get(counts), axis=0) / self.examples
        return float(single_step), float(pgd)


def has_happened(single_step: float, pgd: float, earlier: list[float], examples: int) -> bool:
    """Whether the accuracies after an epoch show it.

    Args:
        single_step, pgd: on `examples` images.
        earlier: PGD's accuracies after the epochs before.
    """
    _, (high,) = wilson_interval([round(pgd * examples)], [examples])
    has_fallen = high < FALL * min(single_step, max(earlier, default=0.0))
    return bool(has_fallen or high < GONE * single_step)


def message(single_step: float, pgd: float, earlier: list[float], examples: int) -> str:
    """What it means and what to do."""
    best = f", at best {100 * max(earlier):.1f} % before" if earlier else ""
    return (
        f"catastrophic overfitting: of {examples} training images {100 * single_step:.1f} % withstand the one step of "
        f"the training, but {100 * pgd:.1f} % PGD of {STEPS} steps{best}. The weights are no longer robust, whatever "
        "the training accuracy says: train again with attack.steps = 2 or more, a smaller attack.step_size_255 or a "
        "smaller radius; earlier checkpoints are as good as their evaluation says"
    )
