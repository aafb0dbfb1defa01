"""Effects of an intervention on the remaining classes: other classes are removed, merged, thinned or attacked harder.

Levels of the axis `intervention` are compared with its first level. Two other levels are compared with each other only
if they have exactly one class in common, for example a cat among animals and a cat among vehicles.
"""

import itertools
import math

import numpy as np
from scipy.stats import norm, t

from jaxrobust.studies.observed import INTERVENTION, SEED, Observed, matched

CONFIDENCE = 0.95


def effects(robust: list[Observed], levels: list[str]) -> list[dict]:
    """Changes of the robust accuracy of the classes that two levels share, over pairs of runs that otherwise agree.

    Args:
        robust: adversarially trained runs on one data set.
        levels: the levels of the axis; the first is the one without intervention.

    Returns:
        For each pair of levels: `from`, `to`, the numbers of `pairs` of runs and of `settings`, and the shared
        `classes`, each with `name`, `before`, `after`, `change` and the `interval` of the change.
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
            # Observations are settings; seeds only if there is a single setting.
            units = settings if len(settings) > 1 else [[pair] for pair in settings[0]]
            rows = [_change(name, units) for name in shared]
            numbers = {"pairs": sum(map(len, settings)), "settings": len(settings)}
            found.append({"from": one, "to": other, **numbers, "classes": rows})
    return found


def _pairs(robust: list[Observed], one: str, other: str) -> list[list[tuple[Observed, Observed]]]:
    """For each setting that has both levels: its pairs of runs, one for each seed."""
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
    """Interval of the mean change of an accuracy over pairs of runs, for other seeds (or settings) and other images.

    The variance is that between the pairs divided by their number, plus that of two binomial draws of the images; the
    degrees of freedom are those of Welch (1947). Both runs of a pair share their images, so the interval tends to be
    too wide.

    Args:
        change: [R], the change in each pair.
        accuracy, images: before and after, [2].
    """
    change, accuracy, images = (np.asarray(values, float) for values in (change, accuracy, images))
    # One success and one failure are added; otherwise an accuracy of 0 would have variance 0 (Agresti and Caffo, 2000).
    likely = (accuracy * images + 1) / (images + 2)
    of_images = float((likely * (1 - likely) / (images + 2)).sum())
    of_seeds = float(change.var(ddof=1) / len(change)) if len(change) > 1 else 0.0
    quantile = float(norm.ppf((1 + CONFIDENCE) / 2))
    if of_seeds > 0:
        freedom = (len(change) - 1) * ((of_seeds + of_images) / of_seeds) ** 2
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, freedom))
    half = quantile * math.sqrt(of_seeds + of_images)
    return max(-1.0, float(change.mean()) - half), min(1.0, float(change.mean()) + half)
