"""Long-tailed training sets: a random subset of any set, in which a class with a larger label has fewer examples.

    sizes(counts, "exponential", 0.02)        # CIFAR-10: 5000 3237 2096 1357 878 568 368 238 154 100
    subset(train, class_names, profile="step", ratio=0.1, rng=rng)

Validation and test splits do not change: the validation split is taken before, from the whole training set.
"""

from collections.abc import Sequence

import numpy as np

from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

PROFILES = ("none", "exponential", "step")


def sizes(counts: np.ndarray, profile: str, ratio: float) -> np.ndarray:
    """How many examples of each class to keep (Cui et al. 2019; Cao et al. 2019).

        exponential   floor(n_max * ratio^(c / (C - 1)))
        step          n_max for the first half of the classes, the middle one included, and floor(n_max * ratio)

    n_max is the size of the largest class. A class that has fewer examples than its share keeps all of them. So if the
    classes have unequal sizes, the ratio of the smallest to the largest may differ from `ratio`.

    Args:
        counts: [C] examples of each class, at least 1.
        profile: one of `PROFILES`; `none` keeps all.
        ratio: of the smallest class to the largest, in (0, 1]; the result [C] is never larger for a smaller ratio.
    """
    counts = np.asarray(counts, np.int64)
    place = np.arange(len(counts))
    if profile == "exponential":
        share = ratio ** (place / (len(counts) - 1))
    elif profile == "step":
        share = np.where(2 * place < len(counts), 1.0, ratio)
    else:
        return counts
    # Rounding errors must not lower a whole number, such as 1000 * 0.001^(1/3), by one.
    wanted = np.floor(np.round(counts.max() * share, 6)).astype(np.int64)
    return np.minimum(counts, wanted)


def subset(train: Split, class_names: Sequence[str], profile: str, ratio: float, rng: np.random.Generator) -> Split:
    """The long-tailed subset of a training split, in the original order; for profile `none`, the split itself.

    With the same draw, the examples kept for a smaller ratio are a subset of those kept for a larger one.

    Args:
        train: streamed or not; every class has examples.
        profile, ratio: as for `sizes`; a FieldError if a class would keep no example.
    """
    if profile == "none":
        return train
    counts = train.counts(len(class_names))
    kept = checked_sizes(counts, profile, ratio, class_names)
    # Classes one after another, each in random order; the first examples of each are kept.
    order = rng.permutation(len(train))
    by_class = order[np.argsort(train.labels[order], kind="stable")]
    rank = np.arange(len(train)) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.zeros(len(train), bool)
    mask[by_class] = rank < np.repeat(kept, counts)
    return train.take(mask)


def checked_sizes(counts: np.ndarray, profile: str, ratio: float, class_names: Sequence[str]) -> np.ndarray:
    """`sizes`; a FieldError if a class would keep no example."""
    kept = sizes(counts, profile, ratio)
    if kept.min() < 1:
        label, largest = int(kept.argmin()), int(np.max(counts))
        problem = f"leaves no training example of class {class_names[label]!r}: the largest class has {largest}"
        # 1 % more than 1 / largest, so that the advised value is still large enough after rounding to three digits.
        raise FieldError("data.imbalance_ratio", ratio, problem, f"use at least {1.01 / largest:.3g}")
    return kept
