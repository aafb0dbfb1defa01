"""Paired differences of a method and a base under one attack, of average and worst class, over several seeds."""

from typing import NamedTuple

import numpy as np

from jaxrobust import classwise
from jaxrobust.classwise import CONFIDENCE, Score, seeds

LEVEL = 0.05  # of the tests, after Holm's correction over the methods
HELPS, NO_DIFFERENCE, HURTS = "helps", "no difference", "hurts"


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


def under_attack(labels, own: list[Robust], paired: list[tuple[Robust, Robust]], spread) -> dict:
    """The figures of one method under one attack: of its runs, and of its pairs with the base.

    Args:
        labels: [N].
        spread: over the seeds, of "average" and "worst".
    """
    worst, class_names = [run.score.worst for run in own], own[0].score.class_names
    ends = zip(*(run.score.interval for run in own), strict=True)
    average = _accuracy([run.score.accuracy for run in own], *ends, spread["average"])
    lowest = _accuracy([w.accuracy for w in worst], [w.low for w in worst], [w.high for w in worst], spread["worst"])
    tally = [c for w in worst for c in w.classes]
    lowest["classes"] = [
        {"name": class_names[c], "seeds": tally.count(c)}
        for c in sorted(set(tally), key=lambda c: (-tally.count(c), c))
    ]
    if not paired:
        unknown = ("difference", "difference_interval", "p_value", "p_holm", "significant", "verdict")
        nothing = dict.fromkeys(unknown)
        return {"average": average | nothing, "worst": lowest | nothing, "rho": None}
    number = len(class_names)
    pairs = [classwise.paired_counts(labels, a.is_robust, b.is_robust, number) for a, b in paired]
    differences = [b.is_robust.astype(int) - a.is_robust for a, b in paired]
    share, total = (seeds.averaged_share(of, differences, n) for of, n in ((labels, number), (0 * labels, 1)))
    means = [
        float(np.mean([run.score.metrics[figure] for run in side]))
        for figure in ("worst_class_accuracy", "accuracy")
        for side in zip(*paired, strict=True)
    ]
    return {
        "average": average | _average_difference([pair.total() for pair in pairs], total[0], spread["average"]),
        "worst": lowest | _worst_difference(pairs, share, spread["worst"]),
        "rho": rho(*means),
    }


def _accuracy(values, low, high, spread) -> dict:
    mean = seeds.seed_mean(values, low, high, CONFIDENCE, spread)
    return {"accuracy": mean.mean, "interval": [max(mean.low, 0.0), min(mean.high, 1.0)]}


def _average_difference(totals: list[classwise.PairedCounts], share: float, spread) -> dict:
    values = np.array([classwise.paired_difference(total)[0] for total in totals])

    def over_seeds(confidence):
        ends = [classwise.paired_interval(t.only_a, t.only_b, t.count, confidence) for t in totals]
        low, high = (values + share * (np.array(end)[:, 0] - values) for end in zip(*ends, strict=True))
        return seeds.seed_mean(values, low, high, confidence, spread, runs=2)

    difference = _difference(over_seeds)
    if len(totals) == 1:
        difference["p_value"] = float(classwise.mcnemar_test(totals[0].only_a, totals[0].only_b)[0])
    return difference


def _worst_difference(pairs: list[classwise.PairedCounts], share: np.ndarray, spread) -> dict:
    def over_seeds(confidence):
        each = [classwise.worst_difference(pair, confidence, share) for pair in pairs]
        ends = [[getattr(e, name) for e in each] for name in ("difference", "low", "high")]
        return seeds.seed_mean(*ends, confidence, spread, runs=2)

    return _difference(over_seeds)


def _difference(over_seeds) -> dict:
    """The mean difference, its interval, and the level at which that leaves out 0."""

    def ends(confidence):
        mean = over_seeds(confidence)
        return mean.low, mean.high

    mean = over_seeds(CONFIDENCE)
    return {
        "difference": mean.mean,
        "difference_interval": [max(mean.low, -1.0), min(mean.high, 1.0)],
        "p_value": seeds.level_of(ends) if mean.mean else 1.0,
    }


def correct(figures: list[dict]) -> None:
    """Add p_holm, significant and verdict to the figures of all methods, in place."""
    for of, p in zip(figures, classwise.holm_correction([of["p_value"] for of in figures]), strict=True):
        of["p_holm"] = float(p)
        of["significant"] = bool(p <= LEVEL)
        sign = HELPS if of["difference"] > 0 else HURTS
        of["verdict"] = sign if of["significant"] else NO_DIFFERENCE


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
