"""What the comparison of remedies with a base finds, and how often it errs: by simulation, before and after.

    python tests/simulations/remedies.py [TRIALS]       # prints the table; 200 trials take a quarter of an hour

"Before" is the rule that allows for any worst class, corrected for the methods of one attack. "After" names the worst
class on validation images, takes the spread over seeds from paired differences, and corrects for all that a page tests.
The shares are of trials in which the difference of the worst class is called significant at 5 %; "wrong" is any of the
methods on the wrong side of its true difference.

A run is right on image i of class c where mean[c] + (its seed's shift)[c] + (difficulty of the image) + noise > 0, a
probit model. Difficulty has the share `common` of the variance 1, and is alike for all runs.
"""

import dataclasses
import math
import sys
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from jaxrobust import classwise
from jaxrobust.classwise import seeds
from jaxrobust.classwise.paired import PairedSeeds

LEVEL = 0.05


class Design(NamedTuple):
    """A base and methods, by the expected accuracies of their classes, and how they are tried.

    Attributes:
        images, validation: of each class.
        heads: how many methods, the first, change heads of the base's checkpoints, so that they share its chance.
        deviations: of the shift by the seed, of base and methods, each alike for all classes or [C].
    """

    base: np.ndarray
    methods: tuple[np.ndarray, ...]
    images: int = 100
    validation: int = 50
    number: int = 3
    heads: int = 0
    deviations: tuple[float | np.ndarray, ...] = (0.15,)
    common: float = 0.8

    @property
    def labels(self) -> np.ndarray:
        return np.repeat(np.arange(self.base.size), self.images)

    @property
    def truth(self) -> np.ndarray:
        return np.array([method.min() - self.base.min() for method in self.methods])


def drawn(design: Design, rng) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For the base and each method: verdicts [S, N] on test images, and accuracies [S, C] on the validation split."""
    classes, images = design.base.size, design.images + design.validation
    shape = design.number, classes, images
    difficulty = math.sqrt(design.common) * rng.normal(size=shape[1:])
    shared_shift, shared_noise = rng.normal(size=shape[:2]), rng.normal(size=shape)
    verdicts, accuracies = [], []
    for i, accuracy in enumerate((design.base, *design.methods)):
        deviation = design.deviations[min(i, len(design.deviations) - 1)]
        shift, noise = rng.normal(size=shape[:2]), rng.normal(size=shape)
        if design.heads and i <= design.heads:
            shift = shared_shift + 0.3 * shift * (i > 0)
            noise = math.sqrt(0.8) * shared_noise + math.sqrt(0.2) * noise if i else shared_noise
        middle = ndtri(accuracy) * np.sqrt(1 + deviation**2 * (1.09 if 0 < i <= design.heads else 1))
        latent = (middle + deviation * shift)[..., None] + difficulty + math.sqrt(1 - design.common) * noise
        verdicts.append((latent > 0)[..., : design.images].reshape(design.number, -1))
        accuracies.append((latent > 0)[..., design.images :].mean(-1))
    return verdicts, accuracies


def before(design: Design, verdicts, only=None) -> list[tuple[float, float]]:
    """Intervals of the first methods, at the level of Bonferroni's (and Holm's first) step over the methods."""
    labels, classes, confidence = design.labels, design.base.size, 1 - LEVEL / len(design.methods)
    spread = seeds.pooled_spread([of.reshape(design.number, classes, -1).mean(2).min(1) for of in verdicts])
    found = []
    for of in verdicts[1:][:only]:
        difference = (of.astype(float) - verdicts[0]).reshape(design.number, classes, -1)
        centred = difference - difference.mean(2, keepdims=True)
        size = np.linalg.norm(centred, axis=2).mean(0)
        share = np.where(size > 0, np.linalg.norm(centred.mean(0), axis=1) / np.where(size > 0, size, 1), 1)
        pairs = [PairedSeeds.of(labels, a[None], b[None], classes) for a, b in zip(verdicts[0], of, strict=True)]
        pairs = [dataclasses.replace(pair, share=share) for pair in pairs]
        each = [classwise.worst_difference(pair, confidence) for pair in pairs]
        ends = [[getattr(e, name) for e in each] for name in ("difference", "low", "high")]
        mean = seeds.seed_mean(*ends, confidence, spread, runs=2)
        found.append((mean.low, mean.high))
    return found


def after(design: Design, verdicts, accuracies, only=None, groups: int = 2) -> list[tuple[float, float]]:
    """The same where half of the level, of 2 groups, is that of the worst class under the attack that decides."""
    confidence = 1 - LEVEL / len(design.methods) / groups
    pairs = [
        PairedSeeds.of(design.labels, verdicts[0], of, design.base.size, i < design.heads)
        for i, of in enumerate(verdicts[1:])
    ]
    named = [seeds.lowest_classes(of) for of in accuracies]
    found = []
    for i, pair in enumerate(pairs[:only]):
        others = pairs[:i] + pairs[i + 1 :]
        of = classwise.worst_difference(pair, confidence, worst_a=named[0], worst_b=named[i + 1], others=others)
        found.append((of.low, of.high))
    return found


def shares(design: Design, trials: int, only=None, groups: int = 2, rules=("before", "after")) -> dict[str, np.ndarray]:
    """By rule: shares of trials in which the first method is found to help, and in which any of them is on the wrong
    side of the truth; with `only` the first methods alone."""
    rng, found = np.random.default_rng(0), {rule: [] for rule in rules}
    for _ in range(trials):
        verdicts, accuracies = drawn(design, rng)
        for rule, of in found.items():
            if rule == "before":
                intervals = before(design, verdicts, only)
            else:
                intervals = after(design, verdicts, accuracies, only, groups)
            wrong = any(not low <= truth <= high for (low, high), truth in zip(intervals, design.truth, strict=False))
            of.append((intervals[0][0] > 0, wrong))
    return {rule: np.mean(of, 0) for rule, of in found.items()}


LOW = np.array([0.013, 0.13, 0.15, 0.17, 0.22, 0.28, 0.34, 0.40, 0.45, 0.53])
MIDDLE = np.array([0.2, 0.3, 0.3, 0.31, 0.35, 0.4, 0.46, 0.52, 0.56, 0.65])
TIED, CLEAR = np.full(10, 0.3), np.array([0.3, *[0.6] * 9])
GAINS = np.maximum(LOW, 0.123), np.maximum(MIDDLE, 0.3), np.maximum(LOW, 0.053)
# What is simulated, the design, and how many of its methods are looked at (None: all; then errors are counted).
ROWS = (
    ("one pair, +11 points from 1 %", Design(LOW, (GAINS[0],), number=1, deviations=(0.0,)), 1),
    ("one pair, +10 points from 20 %", Design(MIDDLE, (GAINS[1],), number=1, deviations=(0.0,)), 1),
    ("6 methods, 3 seeds, one +11 from 1 %", Design(LOW, (GAINS[0], *[LOW] * 5)), 1),
    ("the same, heads of the base's checkpoints", Design(LOW, (GAINS[0], *[LOW] * 5), heads=6), 1),
    ("6 methods, 3 seeds, one +10 from 20 %", Design(MIDDLE, (GAINS[1], *[MIDDLE] * 5)), 1),
    ("4 methods, 6 seeds, 1,000 images, one +4 from 1 %", Design(LOW, (GAINS[2], *[LOW] * 3), 1000, 200, 6), 1),
    ("6 that do nothing, 1 %", Design(LOW, (LOW,) * 6), None),
    ("6 that do nothing, 20 %", Design(MIDDLE, (MIDDLE,) * 6), None),
    ("6 heads that do nothing, 20 %", Design(MIDDLE, (MIDDLE,) * 6, heads=6), None),
    ("the base's classes alike, one low class in 6 methods", Design(TIED, (CLEAR,) * 6, deviations=(0.3,)), None),
    (
        "6 that do nothing, one varies three times as much",
        Design(MIDDLE, (MIDDLE,) * 6, deviations=(0.1, 0.3, 0.1)),
        None,
    ),
    ("6 heads with +11", Design(LOW, (GAINS[0],) * 6, heads=6), None),
    ("6 methods, 3 seeds, one +11 from 1 %, 2 of them heads", Design(LOW, (GAINS[0], *[LOW] * 5), heads=2), 1),
    ("6 heads, 6 seeds, one +11 from 1 %", Design(LOW, (GAINS[0], *[LOW] * 5), number=6, heads=6), 1),
    (
        "6 that do nothing, the worst class varies most, 1,000 images",
        Design(MIDDLE, (MIDDLE,) * 6, 1000, 200, deviations=(np.array([0.35] + [0.05] * 9),)),
        None,
    ),
)


def main(trials: int) -> None:
    print("| simulated | found, before | found, after | wrong, before | wrong, after |\n|---|--:|--:|--:|--:|")
    for title, design, only in ROWS:
        of = shares(design, trials, only=only, groups=1 if len(design.methods) == 1 else 2)
        values = [of[rule][k] for k in (0, 1) for rule in ("before", "after")]
        print(f"| {title} | " + " | ".join(f"{value:.3f}" for value in values) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
