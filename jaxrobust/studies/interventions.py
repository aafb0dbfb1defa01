"""What an intervention does to the classes that are still there: others left out or merged, thinned, attacked harder.

Levels of the axis `intervention` are compared with its first one, and two others with each other if they have one class
in common, which is then what they are about: a cat among animals, and a cat among vehicles.
"""

import itertools
import math

import numpy as np
from scipy.stats import norm, t

from jaxrobust.studies.observed import INTERVENTION, SEED, Observed, matched

CONFIDENCE = 0.95


def effects(robust: list[Observed], levels: list[str]) -> list[dict]:
    """Changes of robust accuracy of the classes that two levels share, of pairs of runs that are otherwise alike.

    Args:
        robust: adversarially trained runs on one data set.
        levels: of the axis, the one without intervention first.

    Returns:
        For each pair of levels: `from`, `to`, `pairs` of runs, of how many `settings`, and `classes`, those they share,
        of which each has `name`, `before`, `after`, `change` and its `interval`.
    """
    found = []
    for one, other in itertools.combinations(levels, 2):
        settings = _pairs(robust, one, other)
        if not settings:
            continue
        before, after = settings[0][0]
        shared = [name for name in before.classes if name in after.classes]
        if one != levels[0] and len(shared) != 1:
            continue
        if shared:
            # Seeds of a setting are no observations of their own, unless all is said of one setting.
            units = settings if len(settings) > 1 else [[pair] for pair in settings[0]]
            rows = [_change(name, units) for name in shared]
            numbers = {"pairs": sum(map(len, settings)), "settings": len(settings)}
            found.append({"from": one, "to": other, **numbers, "classes": rows})
    return found


def _pairs(robust: list[Observed], one: str, other: str) -> list[list[tuple[Observed, Observed]]]:
    """Of each setting that has some, one for each seed."""
    found = []
    for setting in matched(robust, INTERVENTION, SEED).values():
        pairs = []
        for group in matched(setting, INTERVENTION).values():
            by_level = {run.run.levels[INTERVENTION]: run for run in group}
            if one in by_level and other in by_level:
                pairs.append((by_level[one], by_level[other]))
        if pairs:
            found.append(pairs)
    return found


def _change(name: str, units) -> dict:
    accuracies = np.array(
        [np.mean([[run.accuracy[run.classes.index(name)] for run in pair] for pair in unit], axis=0) for unit in units]
    )
    images = [[run.count[run.classes.index(name)] for run in pair] for unit in units for pair in unit]
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
    """Interval of the mean change of an accuracy over pairs of runs, of other seeds (or settings) and other images.

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
