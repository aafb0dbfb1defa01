"""Paired differences of a method and a base under one attack, of average and worst class, over several seeds."""

from typing import NamedTuple

import numpy as np

from jaxrobust import classwise, files
from jaxrobust.classwise import CONFIDENCE, Score, seeds
from jaxrobust.classwise.paired import PairedSeeds, holm_over_groups

LEVEL = 0.05  # of all tests of a page together, after Holm's correction
HELPS, NO_DIFFERENCE, HURTS = "helps", "no difference", "hurts"


def too_few(number: int, of: str) -> str:
    """The verdict where there are too few observations for their chance to be known; empty if there are enough.

    Args:
        of: what they are, in the singular.
    """
    return f"too few {of}s ({number}) to say" if number < seeds.MIN_SEEDS else ""


class Robust(NamedTuple):
    """Which of the images that all runs have in common one run classifies correctly under one attack.

    Attributes:
        is_robust: bool [N].
        score: its counts per class.
    """

    is_robust: np.ndarray
    score: Score


def spreads_of(groups: list[list[dict[str, Robust]]], names: list[str]) -> dict[str, dict[str, seeds.Spread | None]]:
    """How average and worst class vary from seed to seed, by attack.

    Args:
        groups: for each method its runs, by attack.
    """
    figures = {"average": "accuracy", "worst": "worst_class_accuracy"}
    return {
        name: {
            which: seeds.pooled_spread([run[name].score.metrics[figure] for run in group] for group in groups)
            for which, figure in figures.items()
        }
        for name in names
    }


class Paired(NamedTuple):
    """The pairs of a method's runs with the base's under one attack.

    Attributes:
        average: all images as one class.
        worst: by class.
        named: the classes that may be the worst of the base, and of the method, by the validation split; None without.
    """

    average: PairedSeeds
    worst: PairedSeeds
    named: tuple[list[int] | None, list[int] | None]


def paired(labels, pairs: list[tuple[Robust, Robust]], named, heads: bool = False) -> Paired:
    """The `Paired` of runs (base, method) on images of the classes `labels` [N].

    Args:
        heads: whether the method changes heads of the base's checkpoints.
    """
    sides = [np.stack([run.is_robust for run in side]) for side in zip(*pairs, strict=True)]
    number = len(pairs[0][0].score.class_names)
    average, worst = (PairedSeeds.of(of, *sides, n, heads) for of, n in ((0 * labels, 1), (labels, number)))
    return Paired(average, worst, named)


def under_attack(own: list[Robust], pairs: Paired | None, others: list[Paired], spread) -> dict:
    """The figures of one method under one attack: of its runs, and of its pairs with the base.

    Args:
        others: of the other methods.
        spread: of single runs over the seeds, of "average" and "worst".
    """
    average = seeds.seed_mean(
        [run.score.accuracy for run in own], *_ends([run.score.interval for run in own]), CONFIDENCE, spread["average"]
    )
    figures = {"average": _accuracy(average), "worst": _worst(own, spread["worst"])}
    nothing = ("difference", "difference_interval", "p_value", "p_holm", "significant", "verdict")
    if pairs is None:
        return {name: of | dict.fromkeys(nothing) for name, of in figures.items()} | {"rho": None}
    for name in figures:
        figures[name] |= _difference(getattr(pairs, name), pairs.named, [getattr(other, name) for other in others])
    means = [np.nanmin(side.mean(0)) for of in (pairs.worst, pairs.average) for side in of.accuracy]
    names = own[0].score.class_names
    figures["worst"]["named"] = [of and [names[c] for c in of] for of in pairs.named]
    return figures | {"rho": rho(*map(float, means))}


def _ends(intervals) -> list:
    return list(zip(*intervals, strict=True))


def _accuracy(mean: seeds.SeedMean) -> dict:
    return {"accuracy": mean.mean, "interval": [max(mean.low, 0.0), min(mean.high, 1.0)]}


def _worst(own: list[Robust], spread) -> dict:
    """The class whose accuracy is the lowest in the mean over seeds, and in how many seeds each class is the worst."""
    worst, class_names = [run.score.worst for run in own], own[0].score.class_names
    each = np.array([classwise.class_accuracy(run.score.correct, run.score.count) for run in own])
    lowest = each[:, np.nanargmin(each.mean(0))]
    distances = [(w.accuracy - w.low, w.high - w.accuracy) for w in worst]
    below, above = np.array(distances).T
    mean = seeds.seed_mean(lowest, lowest - below, lowest + above, CONFIDENCE, spread)
    tally = [c for w in worst for c in w.classes]
    order = sorted(set(tally), key=lambda c: (-tally.count(c), c))
    classes = [{"name": class_names[c], "seeds": tally.count(c)} for c in order]
    return _accuracy(mean) | {"classes": classes, "named": None}


def _difference(pairs: PairedSeeds, named, others: list[PairedSeeds]) -> dict:
    """The difference of the lowest accuracies, its interval, and the level at which that leaves out 0.

    With few seeds the interval is of the images alone: nothing is tested, as it would be 0 far too rarely.
    """

    def over_seeds(confidence):
        return classwise.worst_difference(pairs, confidence, worst_a=named[0], worst_b=named[1], others=others)

    def ends(confidence):
        found = over_seeds(confidence)
        return found.low, found.high

    found, few = over_seeds(CONFIDENCE), too_few(len(pairs.only_a), "seed")
    return {
        "difference": found.difference,
        "difference_interval": [max(found.low, -1.0), min(found.high, 1.0)],
        "p_value": None if few else seeds.level_of(ends),
        "p_holm": None,
        "significant": False,
        "verdict": few or NO_DIFFERENCE,
    }


def correct(groups: list[list[dict]]) -> None:
    """Add p_holm and significant to all figures of a page, and what is significant to the verdicts, in place.

    See `classwise.holm_over_groups`; what is not tested is not counted.
    """
    corrected = holm_over_groups([[of["p_value"] for of in group] for group in groups])
    for group, values in zip(groups, corrected, strict=True):
        for of, p in zip(group, values, strict=True):
            (of["p_holm"],) = files.nullable([p])
            of["significant"] = bool(p <= LEVEL)
            if of["significant"]:
                of["verdict"] = HELPS if of["difference"] > 0 else HURTS


def rho(worst_base: float, worst: float, average_base: float, average: float) -> float | None:
    """Relative gain of the worst class minus relative loss of the average (WAT; Li & Liu, AAAI 2023).

    Args:
        worst_base, worst: accuracy of the worst class of the base and of the method.
        average_base, average: their average accuracies.

    Returns:
        None where an accuracy of the base is 0.
    """
    if not worst_base or not average_base:
        return None
    return (worst - worst_base) / worst_base - (average_base - average) / average_base


def pareto_front(points) -> np.ndarray:
    """Bool [N]: which of the points [N, D] are not dominated: no other is as high in all and higher in one."""
    points = np.asarray(points, float)
    at_least, above = (points[:, None] >= points).all(2), (points[:, None] > points).any(2)
    return ~(at_least & above).any(0)
