"""What the runs of a study answer, as JSON data: is the discrepancy between classes universal, and what moves it?

Accuracies are fractions, of test images at the last checkpoint. `natural` settings are trained without attack; the
others are compared under the attack of the study. Figures that the runs at hand do not allow are null.
"""

import collections
import math
import pathlib

import numpy as np

from jaxrobust import classwise
from jaxrobust.classwise import agreement, components, permutation
from jaxrobust.comparison import price_list
from jaxrobust.errors import UserError
from jaxrobust.studies import running
from jaxrobust.studies.design import Planned, Study
from jaxrobust.studies.observed import DATA, SEED, Observed, by_data, by_setting, matched, observe

OBJECTIVE, RADIUS, REMEDY = "objective", "radius", "remedy"
FIGURES = ("gap", "std", "cv", "worst_class_accuracy", "accuracy")
_RANDOM = 0  # seed of bootstraps and permutations: the same files give the same page


def answer(study: Study, planned: list[Planned], workdir) -> dict:
    """Everything that the page of a study shows.

    Raises:
        UserError: no run is done, or the runs cannot be compared.
    """
    observed, attack = observe(study, planned, workdir)
    states = {run.name: running.status(workdir, run) for run in planned}
    return {
        "title": study.title,
        "question": study.question,
        "attack": attack,
        "planned": len(planned),
        "done": len(observed),
        "failed": [{"run": name, "error": found.error} for name, found in states.items() if found.state == "failed"],
        "axes": {axis: list(levels) for axis, levels in study.axes.items()},
        "data": [_of_data(name, runs) for name, runs in by_data(observed).items()],
        "price_list": _price_list(observed, workdir),
    }


def _of_data(name: str, runs: list[Observed]) -> dict:
    """The answers within one data set."""
    robust = [run for run in runs if not run.natural]
    return {
        "name": name,
        "classes": list(runs[0].classes),
        "settings": _settings(runs),
        "agreement": _agreement(robust),
        "components": _components(robust),
        "axes": _axes(robust),
        "widening": _widening(runs),
        "radius": _radius(robust),
        "epochs": _epochs(runs),
    }


def label(levels: dict[str, str], varied: list[str]) -> str:
    """A setting by its levels on the axes that vary."""
    return ", ".join(levels[axis] for axis in varied) or "all"


def _varied(runs: list[Observed]) -> list[str]:
    """Axes on which the runs differ, but for seed and data set."""
    axes = [axis for axis in runs[0].run.levels if axis not in (SEED, DATA)]
    return [axis for axis in axes if len({run.run.levels[axis] for run in runs}) > 1]


def _settings(runs: list[Observed]) -> list[dict]:
    varied, found = _varied(runs), []
    for seeds in by_setting(runs).values():
        count = sum(run.count for run in seeds)
        attacked, clean = sum(run.correct for run in seeds), sum(run.clean for run in seeds)
        found.append(
            {
                "label": label(seeds[0].run.levels, varied),
                "levels": {axis: seeds[0].run.levels[axis] for axis in varied},
                "natural": seeds[0].natural,
                "radius": seeds[0].radius,
                "seeds": len(seeds),
                "runs": [run.run.name for run in seeds],
                "attacked": _figures(attacked, count),
                "clean": _figures(clean, count),
            }
        )
    return found


def _figures(correct, count) -> dict:
    """Of the images of all seeds together, so every seed weighs the same."""
    of = classwise.summary(correct, count)
    return {"class_accuracy": list(of.class_accuracy), "worst_class": of.worst_class} | {
        name: getattr(of, name) for name in FIGURES
    }


def _agreement(robust: list[Observed]) -> dict | None:
    """Do settings order the classes alike?"""
    groups = by_setting(robust)
    if len(groups) < 2:
        return None
    numbers = {setting: number for number, setting in enumerate(groups)}
    concordance = agreement.concordance(
        np.stack([run.correct for run in robust]),
        np.stack([run.count for run in robust]),
        np.array([numbers[run.setting] for run in robust]),
        rng=np.random.default_rng(_RANDOM),
    )
    means = np.stack([np.mean([run.accuracy for run in seeds], axis=0) for seeds in groups.values()])
    correlations = np.array([[agreement.rank_correlation(a, b) for b in means] for a in means])
    above = correlations[np.triu_indices(len(means), 1)]
    known = above[~np.isnan(above)]
    ranks = means.argsort(axis=1).argsort(axis=1)  # 0 is the weakest
    lowest = max(1, round(0.4 * means.shape[1]))
    return {
        "settings": [label(seeds[0].run.levels, _varied(robust)) for seeds in groups.values()],
        "w": _number(concordance.w),
        "interval": [_number(concordance.low), _number(concordance.high)],
        "ceiling": _number(concordance.ceiling),
        "p_value": _number(concordance.p_value),
        "correlations": [[_number(value) for value in row] for row in correlations],
        "median_correlation": float(np.median(known)) if known.size else None,
        "least_correlation": float(known.min()) if known.size else None,
        "lowest": lowest,
        "classes": [
            {
                "name": name,
                "accuracy": float(means[:, c].mean()),
                "mean_rank": float(1 + ranks[:, c].mean()),
                "worst_in": float((ranks[:, c] == 0).mean()),
                "among_lowest_in": float((ranks[:, c] < lowest).mean()),
            }
            for c, name in enumerate(robust[0].classes)
        ],
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _components(robust: list[Observed]) -> dict | None:
    """What explains the robustness of a class?"""
    if not robust:
        return None
    seeds = [SEED] if len({run.run.levels.get(SEED) for run in robust}) > 1 else []
    factors = {axis: [run.run.levels[axis] for run in robust] for axis in [*_varied(robust), *seeds]}
    if len(robust) < 3 or not factors:
        return None
    accuracy, count = np.stack([run.accuracy for run in robust]), np.stack([run.count for run in robust])
    try:
        found = components.variance_components(accuracy, count, factors)
    except ValueError as error:  # factors that these runs cannot tell apart
        return {"missing": str(error)}
    if math.isnan(found.share["class"]):
        return {"missing": "nothing varies"}
    intervals = {name: [found.share_low[name], found.share_high[name]] for name in found.share}
    return {
        "share": found.share,
        "intervals": {name: [_number(end) for end in ends] for name, ends in intervals.items()},
        "explained_by_class_order": _number(found.explained_by_class_order),
        "explained_interval": [_number(found.explained_low), _number(found.explained_high)],
    }


def _axes(robust: list[Observed]) -> list[dict]:
    """Does an axis change which classes are weak, and does it change the average?"""
    found = []
    for axis in _varied(robust) if robust else ():
        groups = {key: runs for key, runs in matched(robust, axis, SEED).items() if len(runs) > 1}
        runs = [run for of_group in groups.values() for run in of_group]
        if len({run.run.levels[axis] for run in runs}) < 2:
            continue
        blocks = np.array([number for number, of_group in enumerate(groups.values()) for _ in of_group])
        levels = np.array([run.run.levels[axis] for run in runs])
        accuracy, rng = np.stack([run.accuracy for run in runs]), np.random.default_rng(_RANDOM)
        found.append(
            {
                "axis": axis,
                "levels": sorted(set(levels.tolist())),
                "runs": len(runs),
                "p_profile": permutation.axis_test(accuracy, levels, blocks, rng=rng).p_value,
                "p_average": permutation.axis_test(accuracy, levels, blocks, rng=rng, profile=False).p_value,
            }
        )
    return found


def _widening(runs: list[Observed]) -> dict | None:
    """Is the gap wider with adversarial training than with natural training of the same setting and seed?

    The accuracy that each is trained for: clean of the natural run, under attack of the adversarial one; and clean of
    both.
    """
    pairs = collections.defaultdict(list)
    # The radius of the training is nothing to a natural one.
    for group in matched(runs, OBJECTIVE, RADIUS).values():
        natural = [run for run in group if run.natural]
        for run in group:
            if natural and not run.natural:
                pairs[run.setting].append((natural[0], run))
    # Seeds of a setting are not independent pairs, unless there is one setting alone, of which all is said.
    units = list(pairs.values()) if len(pairs) > 1 else [[pair] for of in pairs.values() for pair in of]
    if len(units) < 2:
        return None
    found = {"pairs": sum(map(len, units)), "settings": len(pairs)}
    for name, attacked in (("own", True), ("clean", False)):
        found[name] = {figure: _change(units, figure, attacked) for figure in ("gap", "std", "cv")}
    return found


def _change(units, figure: str, attacked: bool) -> dict:
    """From natural to adversarial training: means over the pairs of each unit, then over units."""

    def mean(counts):
        return np.array([np.mean([getattr(classwise.summary(*counts(pair)), figure) for pair in of]) for of in units])

    values = (
        mean(lambda pair: (pair[0].clean, pair[0].count)),
        mean(lambda pair: (pair[1].correct if attacked else pair[1].clean, pair[1].count)),
    )
    change = permutation.paired_change(*values, rng=np.random.default_rng(_RANDOM))
    return {
        "natural": float(values[0].mean()),
        "adversarial": float(values[1].mean()),
        "change": change.mean,
        "interval": [_number(change.low), _number(change.high)],
        "p_value": change.p_value,
    }


def _radius(robust: list[Observed]) -> dict | None:
    """Does the gap grow with the radius?"""
    groups = [runs for runs in matched(robust, RADIUS).values() if len({run.radius for run in runs}) > 1]
    runs = [run for group in groups for run in group]
    if not runs:
        return None
    blocks = np.array([number for number, group in enumerate(groups) for _ in group])
    radii, found = np.array([run.radius for run in runs]), {}
    for figure in ("gap", "std", "cv", "accuracy", "worst_class_accuracy"):
        values = np.array([getattr(classwise.summary(run.correct, run.count), figure) for run in runs], float)
        trend = permutation.trend(values, radii, blocks, rng=np.random.default_rng(_RANDOM))
        by_radius = {radius: float(values[radii == radius].mean()) for radius in sorted(set(radii.tolist()))}
        found[figure] = {
            "slope": trend.slope,  # per pixel unit
            "interval": [_number(trend.low), _number(trend.high)],
            "p_value": trend.p_value,
            "by_radius": [{"radius": radius, "mean": mean} for radius, mean in by_radius.items()],
        }
    return {"runs": len(runs), "figures": found}


def _epochs(runs: list[Observed]) -> list[dict]:
    """How the discrepancy moves over training: means over all runs of a kind, at the epochs that all were scored at."""
    found = []
    for natural in (True, False):
        of_kind = [run for run in runs if run.natural == natural]
        common = set.intersection(*({epoch for epoch, *_ in run.epochs} for run in of_kind)) if of_kind else set()
        if len(common) < 2:
            continue
        at = {epoch: collections.defaultdict(list) for epoch in sorted(common)}
        for run in of_kind:
            for epoch, attacked, clean in run.epochs:
                if epoch in at:
                    of = classwise.summary(clean if natural else attacked, run.count)
                    for figure in FIGURES:
                        at[epoch][figure].append(getattr(of, figure))
        figures = {figure: [float(np.mean(at[epoch][figure])) for epoch in at] for figure in ("gap", "std", "accuracy")}
        found.append({"natural": natural, "runs": len(of_kind), "epochs": list(at), **figures})
    return found


def _price_list(observed: list[Observed], workdir) -> dict | None:
    """Question (c): the remedies against the first level of their axis, in the other axes' most frequent setting."""
    if REMEDY not in observed[0].run.levels:
        return None
    groups = matched(observed, REMEDY, SEED).values()
    runs = max(groups, key=lambda of: len({run.run.levels[REMEDY] for run in of}))
    base = observed[0].run.levels[REMEDY]
    runs.sort(key=lambda run: run.run.levels[REMEDY] != base)
    if len({run.run.levels[REMEDY] for run in runs}) < 2 or runs[0].run.levels[REMEDY] != base:
        return None
    folders = [pathlib.Path(running.folder(workdir, run.run)) for run in runs]
    try:
        return price_list.price_list(folders, split="test")
    except UserError as error:
        return {"error": str(error)}
