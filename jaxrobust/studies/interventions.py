"""What an intervention does to the classes that are still there: others left out or merged, thinned, attacked harder.

Levels of the axis `intervention` are compared with its first one, and two others with each other if they have one class
in common, which is then what they are about: a cat among animals, and a cat among vehicles.
"""

import itertools
import math

import numpy as np
from scipy.stats import norm, t

from jaxrobust.studies.observed import INTERVENTION, Observed, matched

CONFIDENCE = 0.95


def effects(robust: list[Observed], levels: list[str]) -> list[dict]:
    """Changes of robust accuracy of the classes that two levels share, of pairs of runs that are otherwise alike.

    Args:
        robust: adversarially trained runs on one data set.
        levels: of the axis, the one without intervention first.

    Returns:
        For each pair of levels: `from`, `to`, `pairs` of runs, and `classes`, those they share, of which each has
        `name`, `before`, `after`, `change` and its `interval`.
    """
    found = []
    for one, other in itertools.combinations(levels, 2):
        pairs = _pairs(robust, one, other)
        if not pairs:
            continue
        shared = [name for name in pairs[0][0].classes if name in pairs[0][1].classes]
        if one != levels[0] and len(shared) != 1:
            continue
        if shared:
            rows = [_change(name, pairs) for name in shared]
            found.append({"from": one, "to": other, "pairs": len(pairs), "classes": rows})
    return found


def _pairs(robust: list[Observed], one: str, other: str) -> list[tuple[Observed, Observed]]:
    found = []
    for group in matched(robust, INTERVENTION).values():
        by_level = {run.run.levels[INTERVENTION]: run for run in group}
        if one in by_level and other in by_level:
            found.append((by_level[one], by_level[other]))
    return found


def _change(name: str, pairs) -> dict:
    accuracies = np.array([[run.accuracy[run.classes.index(name)] for run in pair] for pair in pairs])
    images = [[run.count[run.classes.index(name)] for run in pair] for pair in pairs]
    change = accuracies[:, 1] - accuracies[:, 0]
    low, high = interval(change, accuracies.mean(0), np.min(images, axis=0))
    return {
        "name": name,
        "before": float(accuracies[:, 0].mean()),
        "after": float(accuracies[:, 1].mean()),
        "change": float(change.mean()),
        "interval": [low, high],
    }


def interval(change, accuracy, images) -> tuple[float, float]:
    """Interval of the mean change of an accuracy over pairs of runs, of other seeds and other images.

    The variance is that between the pairs over their number, plus that of two binomial draws of the images, with the
    degrees of freedom of Welch (1947). Pairs share their images, which the first part does not see; that both runs of a
    pair share them makes the second part too large, and the interval rather too wide.

    Args:
        change: [R], of each pair.
        accuracy, images: before and after, [2].
    """
    change, accuracy, images = (np.asarray(values, float) for values in (change, accuracy, images))
    # With one success and one failure added, or an accuracy of 0 would be certain (Agresti and Caffo, 2000).
    likely = (accuracy * images + 1) / (images + 2)
    of_images = float((likely * (1 - likely) / (images + 2)).sum())
    of_seeds = float(change.var(ddof=1) / len(change)) if len(change) > 1 else 0.0
    quantile = float(norm.ppf((1 + CONFIDENCE) / 2))
    if of_seeds > 0:
        freedom = (len(change) - 1) * ((of_seeds + of_images) / of_seeds) ** 2
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, freedom))
    half = quantile * math.sqrt(of_seeds + of_images)
    return max(-1.0, float(change.mean()) - half), min(1.0, float(change.mean()) + half)
