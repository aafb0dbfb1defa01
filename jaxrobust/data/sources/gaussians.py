"""Gaussian classes: data for which the best classifier and its robustness per class are known in closed form."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxrobust.data import randomness
from jaxrobust.data.checks import RawDataset
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError


@dataclasses.dataclass(frozen=True)
class Gaussians:
    """A mixture in which class c is N(means[c] * 1_d, stddevs[c]^2 I_d). Two classes at -eta and +eta: (-eta, eta).

    An example x is stored as an image [1, d, 1] of pixels 0.5 + pixels_per_unit * x, so an L_inf radius e in units of
    the mixture is e * pixels_per_unit in pixels.
    """

    dimension: int  # d
    means: Sequence[float]  # mean of every coordinate, per class
    stddevs: Sequence[float]  # standard deviation of every coordinate, per class
    priors: Sequence[float]  # probability of each class, in training and in test; they add up to 1
    train_examples: int
    test_examples: int
    pixels_per_unit: float  # scale. Every drawn pixel has to lie in [0, 1]; nothing is clipped.

    def __post_init__(self):
        of_means = f"means has {len(self.means)} classes"
        for field in ("stddevs", "priors"):
            self._require(field, len(getattr(self, field)) == len(self.means), of_means, "match it")
        self._require("means", len(self.means) >= 2, "is too short", "give at least 2 classes")
        total = sum(self.priors)
        self._require("priors", abs(total - 1) < 1e-6, f"adds up to {total:.6g}", "make it add up to 1")

    def train_labels(self, seed: int) -> np.ndarray:
        """[train_examples] int, those of the training set that `read` draws."""
        return _draw_labels(self, self.train_examples, randomness.generator(seed, "gaussians train"))

    def _require(self, field: str, condition: bool, problem: str, remedy: str):
        if not condition:
            raise FieldError(f"data.gaussians.{field}", getattr(self, field), problem, remedy)


def read(mixture: Gaussians, seed: int) -> RawDataset:
    """Training and test set from independent streams of `seed`, [N, 1, d, 1] float32, all pixels in [0, 1]."""
    train, train_labels = _draw(mixture, mixture.train_examples, randomness.generator(seed, "gaussians train"))
    test, test_labels = _draw(mixture, mixture.test_examples, randomness.generator(seed, "gaussians test"))
    largest = max(np.abs(train).max(), np.abs(test).max())
    if mixture.pixels_per_unit * largest > 0.5:
        # Lowered by more than the rounding to four digits, so that the advised value is small enough.
        fits = float(f"{0.999 * 0.5 / largest:.4g}")
        problem = f"a drawn value of {largest:.4g} units would be a pixel outside [0, 1]"
        remedy = f"use at most {fits} for this mixture and seed, less for any seed"
        raise FieldError("data.gaussians.pixels_per_unit", mixture.pixels_per_unit, problem, remedy)
    class_names = tuple(f"class {label}" for label in range(len(mixture.means)))
    train, test = (np.float32(0.5) + np.float32(mixture.pixels_per_unit) * x[:, None, :, None] for x in (train, test))
    return RawDataset(class_names, Split(train, train_labels), Split(test, test_labels))


def _draw(mixture: Gaussians, num_examples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Independent draws: values [N, d] float32 in units of the mixture, labels [N]."""
    labels = _draw_labels(mixture, num_examples, rng)
    means, stddevs = (np.asarray(v, np.float32)[labels, None] for v in (mixture.means, mixture.stddevs))
    noise = rng.standard_normal((num_examples, mixture.dimension), np.float32)
    return means + stddevs * noise, labels


def _draw_labels(mixture: Gaussians, num_examples: int, rng: np.random.Generator) -> np.ndarray:
    priors = np.asarray(mixture.priors, np.float64)
    return rng.choice(len(priors), num_examples, p=priors / priors.sum())
