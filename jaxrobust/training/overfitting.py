"""Catastrophic overfitting: a model trained against a single-step attack becomes robust to that attack only.

It happens within an epoch, while the training accuracy rises (Wong et al. 2020, Andriushchenko & Flammarion 2020). So
after each epoch a few training images are attacked both by the training's single step and by PGD of some steps:

    check = Check(step, split, num_classes, radius=..., batch_size=..., seed=..., mesh=mesh)
    warning = add_check(record, check(state), earlier, check.examples)

Images and random numbers are the same after each epoch, and the training does not use these random numbers.
"""

import jax
import numpy as np

from jaxrobust import data
from jaxrobust.classwise import wilson_interval
from jaxrobust.data import batches, randomness, splits
from jaxrobust.distributed import parallel

# Steps of PGD, of a quarter of the radius each, as in the early stopping of Wong et al. 2020.
STEPS = 5
# An image costs 19 forward passes: for 256 images 2 % of an epoch of 50,000 images at 5 passes each.
EXAMPLES = 256
# The accuracy under PGD has fallen if it is below this share both of its best value so far and of the accuracy under
# the single step. Wong et al. stop at a fall by 20 points between epochs; a share also works where accuracies are low.
FALL = 0.5
# Below this share of the accuracy under the single step it counts as lost, also without earlier values to compare with.
GONE = 0.1
# So it does if it is lower than the accuracy under the single step by this share of it, and of all images. Sound
# trainings by a random start and a step of 1.25 or 2 radii have passing gaps of 0.3 of all images while they learn.
GAP = 0.6, 0.4


class Check:
    """Accuracy of the weights on fixed training images under two attacks, the training's step and PGD, counted by the
    compiled step, see steps.make_robust_counts_step. `radius` is in pixel units, before the remedy's scaling; `seed`
    draws the images and the random starts.
    """

    def __init__(self, step, train: data.Split, num_classes: int, *, radius: float, batch_size: int, seed: int, mesh):
        rng = randomness.generator(seed, "overfitting check")
        index = splits.stratified_subset(train.labels, EXAMPLES, num_classes, rng)
        self._step, self._mesh, self._radius = step, mesh, radius
        self._key = randomness.key(seed, randomness.Purpose.OVERFITTING_CHECK)
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


def add_check(record: dict, found: tuple[float, float], earlier: list[dict], examples: int) -> str | None:
    """Add what the check has found, accuracies under the training's step and under PGD, to an epoch's record. Returns
    the warning if it has happened now; of the `earlier` records those of epochs before count.
    """
    names = "single_step_check_accuracy", "pgd_check_accuracy"
    before = [line for line in earlier if line["epoch"] < record["epoch"] and all(name in line for name in names)]
    course = [*(tuple(line[name] for name in names) for line in before), found]
    first = first_overfitted(course, examples)
    record |= dict(zip(names, found, strict=True)) | {"catastrophic_overfitting": first is not None}
    return message(course, examples) if first == len(before) else None


def first_overfitted(course: list[tuple[float, float]], examples: int) -> int | None:
    """The first epoch, from 0, after which the weights are catastrophically overfitted; None if there is none. `course`
    is the accuracy under the training's single step, and under PGD, after each epoch, on so many `examples`.
    """
    best = 0.0
    for epoch, (single_step, pgd) in enumerate(course):
        _, (high,) = wilson_interval([round(pgd * examples)], [examples])
        gap = single_step - high
        is_wide = gap > GAP[0] * single_step and gap > GAP[1]
        if is_wide or high < FALL * min(single_step, best) or high < GONE * single_step:
            return epoch
        best = max(best, pgd)
    return None


def message(course: list[tuple[float, float]], examples: int) -> str:
    """The warning after the last epoch of a course: what has happened, what it means and what to do."""
    *earlier, (single_step, pgd) = course
    best = f" (at best {100 * max(before for _, before in earlier):.1f} % after earlier epochs)" if earlier else ""
    return (
        f"catastrophic overfitting: of {examples} training images {100 * single_step:.1f} % are classified correctly "
        f"under the single-step attack of the training, but {100 * pgd:.1f} % under PGD with {STEPS} steps{best}. The "
        "weights are not robust, even if the training accuracy is high: train again with attack.steps = 2 or more, "
        "another attack.step_size_255 or a smaller radius. Earlier checkpoints may still be robust: see their "
        "evaluation"
    )
