"""The answers of a study, as JSON data: is the discrepancy between classes universal, and what changes it?

Accuracies are fractions of the test images, at the last checkpoint. `natural` settings are trained without attack; the
others are compared under the attack of the study. Figures that cannot be computed from the finished runs are null.
"""

import math
import pathlib

import numpy as np
from scipy.stats import rankdata

from jaxrobust import classwise, config as config_lib, files
from jaxrobust.classwise import agreement, components, permutation
from jaxrobust.classwise.intervals import student_interval
from jaxrobust.comparison.trade_off import trade_off
from jaxrobust.errors import UserError
from jaxrobust.explanations import ranking
from jaxrobust.studies import explaining, observed as observed_lib, probing, running
from jaxrobust.studies.design import Planned, Study
from jaxrobust.studies.interventions import effects
from jaxrobust.studies.observed import DATA, INTERVENTION, OBJECTIVE, RADIUS, SEED, Observed, matched, verdicts

REMEDY = "remedy"
FIGURES = ("gap", "std", "cv", "worst_class_accuracy", "accuracy")
_RANDOM = 0  # seed of bootstraps and permutations: the same files give the same page


def answer(study: Study, planned: list[Planned], workdir) -> dict:
    """The content of the page of a study. UserError if no run is done, or the runs cannot be compared."""
    states = running.statuses(workdir, planned)
    done = [run for run in planned if states[run.name].state == "done"]
    if not done:
        raise UserError(f"workdir = {str(workdir)!r}: none of the {len(planned)} runs is done; train them first")
    observed, attack = observed_lib.observe(study, done, workdir)
    interventions, plain = list(study.axes.get(INTERVENTION, ())), observed_lib.ordinary(study, observed)
    if not plain:
        raise UserError(f"workdir = {str(workdir)!r}: none of the runs without intervention is done; train them first")
    probes = probing.read(workdir, probing.tasks(study, planned, states, observed, attack)) if study.probes else {}
    found = {
        "title": study.title,
        "question": study.question,
        "attack": attack,
        "planned": len(planned),
        "done": len(observed),
        "failed": [{"run": name, "error": found.error} for name, found in states.items() if found.state == "failed"],
        "axes": {axis: list(levels) for axis, levels in study.axes.items()},
        "data": [
            of_data(name, runs, probes, attack)
            | {
                "published": _published(_robust(runs), study.published.get(name, {})),
                "interventions": effects(_robust(observed_lib.by_data(observed)[name]), interventions),
            }
            for name, runs in observed_lib.by_data(plain).items()
        ],
        "price_list": _price_list(plain, study, workdir),
    }
    return files.nullable(found)


def of_data(name: str, runs: list[Observed], probes: dict[str, dict], attack: str) -> dict:
    """The answers within one data set."""
    robust = _robust(runs)
    varied = varied_axes(robust) if robust else {}

    def name_of(levels):
        return label(levels, varied, robust[0].run.levels)

    return {
        "name": name,
        "classes": list(runs[0].classes),
        "threat": _threat(runs),
        "settings": _settings(runs),
        "agreement": _agreement(robust),
        "components": _components(robust),
        "axes": axis_effects(robust),
        "widening": _widening(runs),
        "radius": _radius(robust, _threat(runs)),
        "epochs": _epochs(runs),
        "explanations": explaining.explanations(robust, probes, attack, name_of),
    }


def _threat(runs: list[Observed]) -> dict | None:
    """Norm and radius (in pixel units) of the threat that the runs are evaluated with; None if the runs differ."""
    threats = {(run.run.config.threat.norm, config_lib.radius(run.run.config)) for run in runs}
    return dict(zip(("norm", "radius"), threats.pop(), strict=True)) if len(threats) == 1 else None


def _robust(runs: list[Observed]) -> list[Observed]:
    return [run for run in runs if not run.natural]


def label(levels: dict[str, str], varied: dict[str, bool], reference: dict[str, str]) -> str:
    """The name of a setting, from its levels on the axes that vary.

    Only levels that differ from `reference` are named, or all if none differs; `varied` is the result of `varied_axes`.
    """
    named = {axis: f"{axis} {levels[axis]}" if shared else levels[axis] for axis, shared in varied.items()}
    different = [name for axis, name in named.items() if levels[axis] != reference[axis]]
    return ", ".join(different or named.values()) or "all"


def varied_axes(runs: list[Observed]) -> dict[str, bool]:
    """The axes on which the runs differ, except seed and data set, each with a flag.

    The flag is True if another such axis has a level of the same name, for example `on`: the name of the level alone is
    then ambiguous."""
    levels = {axis: {run.run.levels[axis] for run in runs} for axis in runs[0].run.levels if axis not in (SEED, DATA)}
    varied = {axis: of for axis, of in levels.items() if len(of) > 1}
    return {axis: any(of & others for other, others in varied.items() if other != axis) for axis, of in varied.items()}


def _settings(runs: list[Observed]) -> list[dict]:
    varied, found = varied_axes(runs), []
    for seeds in matched(runs, SEED).values():
        count = sum(run.count for run in seeds)
        attacked, clean = sum(run.correct for run in seeds), sum(run.clean for run in seeds)
        found.append(
            {
                "label": label(seeds[0].run.levels, varied, runs[0].run.levels),
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
    """Figures of the images of all seeds pooled, so every seed has the same weight."""
    of = classwise.Score(correct, count)
    return {"class_accuracy": list(of.class_accuracy), "worst_class": of.worst_class} | {
        name: of.metrics[name] for name in FIGURES
    }


def _agreement(robust: list[Observed]) -> dict | None:
    """Do the settings rank the classes in the same order?"""
    settings = list(matched(robust, SEED).values())
    if len(settings) < 2:
        return None
    means = np.stack([np.mean([run.accuracy for run in seeds], axis=0) for seeds in settings])
    pairs, number = np.triu_indices(len(means), 1), len(means)
    if judged := verdicts([run for seeds in settings for run in seeds]):
        setting_R = np.repeat(np.arange(number), [len(seeds) for seeds in settings])
        found = agreement.concordance(*judged, setting_R, rng=np.random.default_rng(_RANDOM))
        w, interval, p_value, correlations = found.w, [found.low, found.high], found.p_value, found.correlations
    else:  # nothing is corrected for what the settings share by being judged on the same images
        correlations = np.array([[agreement.rank_correlation(a, b) for b in means] for a in means])
        w, interval, p_value = (1 + (number - 1) * correlations[pairs].mean()) / number, [math.nan] * 2, math.nan
    known = correlations[pairs][~np.isnan(correlations[pairs])]
    # Rank 1 is the weakest. Tied classes share their mean rank, and for the counts each takes the lowest tied rank.
    ranks, least_ranks = (rankdata(means.round(12), method=method, axis=1) for method in ("average", "min"))
    lowest = max(1, round(0.4 * means.shape[1]))
    return {
        "settings": [label(seeds[0].run.levels, varied_axes(robust), robust[0].run.levels) for seeds in settings],
        "w": float(w),
        "interval": interval,
        "p_value": p_value,
        "corrected": judged is not None,
        "correlations": correlations.tolist(),
        "median_correlation": float(np.median(known)) if known.size else None,
        "least_correlation": float(known.min()) if known.size else None,
        "lowest": lowest,
        "classes": [
            {
                "name": name,
                "accuracy": float(means[:, c].mean()),
                "mean_rank": float(ranks[:, c].mean()),
                "worst_in": float((least_ranks[:, c] == 1).mean()),
                "among_lowest_in": float((least_ranks[:, c] <= lowest).mean()),
            }
            for c, name in enumerate(robust[0].classes)
        ],
    }


def _published(robust: list[Observed], published) -> list[dict]:
    """Does the order of the classes agree with published results? Compares the mean accuracies over settings."""
    settings = list(matched(robust, SEED).values())
    found = []
    for source, accuracy in published.items() if settings else ():
        mean = np.mean([np.mean([run.accuracy for run in seeds], axis=0) for seeds in settings], axis=0)
        theirs = np.array([accuracy.get(name, math.nan) for name in robust[0].classes])
        of = ranking.associate(mean, theirs, np.random.default_rng(_RANDOM))
        each = [
            agreement.rank_correlation(np.mean([run.accuracy for run in seeds], axis=0), theirs) for seeds in settings
        ]
        known = [value for value in each if not math.isnan(value)]
        found.append(
            {
                "source": source,
                "classes": of.classes,
                "correlation": of.correlation,
                "interval": [of.low, of.high],
                "p_value": of.p_value,
                "settings": [min(known), max(known)] if known else [None, None],
            }
        )
    return found


def _components(robust: list[Observed]) -> dict | None:
    """What explains the robustness of a class?"""
    if not robust:
        return None
    seeds = [SEED] if len({run.run.levels.get(SEED) for run in robust}) > 1 else []
    factors = {axis: [run.run.levels[axis] for run in robust] for axis in [*varied_axes(robust), *seeds]}
    if len(robust) < 3 or not factors:
        return None
    accuracy, covariance = np.stack([run.accuracy for run in robust]), None
    if judged := verdicts(robust):
        accuracy, covariance = components.measured(*judged, len(robust[0].classes))
    try:
        found = components.variance_components(accuracy, covariance, factors)
    except ValueError as error:  # the effects of the factors cannot be separated with these runs
        return {"missing": str(error)}
    if math.isnan(found.share["class"]):
        return {"missing": "nothing varies"}
    intervals = {name: [found.share_low[name], found.share_high[name]] for name in found.share}
    return {
        "corrected": judged is not None,
        "share": found.share,
        "intervals": intervals,
        "explained_by_class_order": found.explained_by_class_order,
        "explained_interval": [found.explained_low, found.explained_high],
    }


def axis_effects(robust: list[Observed]) -> list[dict]:
    """Does an axis change which classes are weak, and does it change the average?"""
    found = []
    # With a single class there is nothing to compare.
    for axis in varied_axes(robust) if robust and len(robust[0].classes) > 1 else ():
        groups = [of for of in matched(robust, axis, SEED).values() if len({run.run.levels[axis] for run in of}) > 1]
        runs = [run for group in groups for run in group]
        if not runs:
            continue
        blocks = np.array([number for number, group in enumerate(groups) for _ in group])
        levels = np.array([run.run.levels[axis] for run in runs])
        accuracy, rng = np.stack([run.accuracy for run in runs]), np.random.default_rng(_RANDOM)
        profile = permutation.axis_test(accuracy, levels, blocks, rng=rng)
        found.append(
            {
                "axis": axis,
                "levels": sorted(set(levels.tolist())),
                "runs": len(runs),
                "p_profile": profile.p_value,
                "least_p": profile.least_p,
                "p_average": permutation.axis_test(accuracy, levels, blocks, rng=rng, profile=False).p_value,
            }
        )
    return found


def _widening(runs: list[Observed]) -> dict | None:
    """Is the gap wider with adversarial training than with natural training of the same setting and seed?"""
    natural = {}
    # Natural training does not depend on the training radius.
    for group in matched(runs, OBJECTIVE, RADIUS).values():
        natural |= {run.run.name: next((other for other in group if other.natural), None) for run in group}
    # A training with radius 0 is natural training, whatever its objective is.
    robust = [run for run in _robust(runs) if run.radius > 0 and natural[run.run.name]]
    pairs = {run.run.name: (natural[run.run.name], run) for run in robust}
    # Settings that share their natural runs (for example several radii) are not independent pairs.
    units = _units(matched(robust, OBJECTIVE, RADIUS, SEED), matched(robust, OBJECTIVE, RADIUS))
    if len(units) < 2:
        return None
    units = [[pairs[run.run.name] for run in of] for of in units]
    found = {"pairs": len(pairs), "settings": len(matched(robust, SEED)), "units": len(units)}
    # Its own accuracy is what a run is trained for: the clean one of a natural run, of others that under attack.
    for name, attacked in (("own", True), ("clean", False)):
        found[name] = {figure: _widened(units, figure, attacked) for figure in ("gap", "std", "cv")}
    return found


def _units(settings: dict, seeds: dict) -> list[list[Observed]]:
    """The groups of runs that count as one observation: settings, or single seeds if there is only one setting."""
    return list((settings if len(settings) > 1 else seeds).values())


def _widened(units, figure: str, attacked: bool) -> dict:
    """From natural to adversarial training: means over the pairs of each unit, then over units."""

    def mean(counts):
        return [np.mean([_figure(figure, *counts(pair)) for pair in of]) for of in units]

    natural = mean(lambda pair: (pair[0].clean, pair[0].count))
    adversarial = mean(lambda pair: (pair[1].correct if attacked else pair[1].clean, pair[1].count))
    return {"natural": float(np.mean(natural)), "adversarial": float(np.mean(adversarial))} | _change(
        natural, adversarial
    )


def _figure(name: str, correct, count) -> float:
    """Without the sampling variance of the images; nan where it is not defined, as cv is where nothing withstands."""
    score = classwise.Score(correct, count)
    value = score.corrected[name].value if name in score.corrected else score.metrics[name]
    return math.nan if value is None else value


def _change(before, after) -> dict:
    """The change over pairs of units; nan where it is not defined for all."""
    if np.isnan([*before, *after]).any():
        return {"change": math.nan, "interval": [math.nan, math.nan], "p_value": math.nan, "least_p": math.nan}
    change = permutation.paired_change(before, after, rng=np.random.default_rng(_RANDOM))
    ends = [change.low, change.high]
    return {"change": change.mean, "interval": ends, "p_value": change.p_value, "least_p": change.least_p}


def _mean(values) -> dict:
    """With its interval over independent values; None for one."""
    return {"mean": float(np.mean(values)), "interval": student_interval(values)}


def _radius(robust: list[Observed], threat: dict | None) -> dict | None:
    """Does the gap grow with the radius?"""
    groups, by_seed = (
        {key: runs for key, runs in matched(robust, *axes).items() if len({run.radius for run in runs}) > 1}
        for axes in ((RADIUS, SEED), (RADIUS,))
    )
    groups = _units(groups, by_seed)
    runs = [run for group in groups for run in group]
    if not runs:
        return None
    blocks = np.array([number for number, group in enumerate(groups) for _ in group])
    radii, found = np.array([run.radius for run in runs]), {}
    for figure in FIGURES:
        values = np.array([_figure(figure, run.correct, run.count) for run in runs])
        if np.isnan(values).any():
            found[figure] = None
            continue
        trend = permutation.trend(values, radii, blocks, rng=np.random.default_rng(_RANDOM))
        by_radius = {
            radius: [values[(blocks == block) & (radii == radius)].mean() for block in set(blocks[radii == radius])]
            for radius in sorted(set(radii.tolist()))
        }
        found[figure] = {
            "slope": trend.slope,  # per pixel unit
            "interval": [trend.low, trend.high],
            "p_value": trend.p_value,
            "least_p": trend.least_p,
            "by_radius": [{"radius": radius} | _mean(of) for radius, of in by_radius.items()],
        }
    linf = all(run.run.config.threat.norm == "linf" for run in runs)
    # In which slopes are shown; a radius of 1/255 is negligible under L2.
    unit = {"length": 1 / 255, "name": "1/255"}
    if threat and not linf:
        unit = {"length": threat["radius"], "name": "threat radius"}
    return {"runs": len(runs), "unit": unit, "figures": found}


def _epochs(runs: list[Observed]) -> list[dict]:
    """How the discrepancy changes during training, for natural and for adversarial training."""
    kinds = [[run for run in runs if run.natural == natural] for natural in (True, False)]
    return [found for of_kind in kinds if of_kind and (found := _over_epochs(of_kind))]


def _over_epochs(runs: list[Observed]) -> dict | None:
    """Figures at the epochs at which all runs were scored: means over the seeds of a setting, then over settings."""
    scored = {
        run.run.name: {epoch: (clean if run.natural else attacked, run.count) for epoch, attacked, clean in run.epochs}
        for run in runs
    }
    epochs = sorted(set.intersection(*map(set, scored.values())))
    if len(epochs) < 2:
        return None

    def means(figure, epoch, groups):
        return [np.mean([_figure(figure, *scored[run.run.name][epoch]) for run in group]) for group in groups]

    settings = matched(runs, SEED)
    units = _units(settings, {run.run.name: [run] for run in runs})
    figures = {
        figure: [float(np.mean(means(figure, epoch, settings.values()))) for epoch in epochs]
        for figure in ("gap", "std", "accuracy")
    }
    gaps = [means("gap", epoch, units) for epoch in epochs]
    figures["gap_interval"] = [_mean(gap)["interval"] for gap in gaps]
    change = _change(gaps[0], gaps[-1]) if len(units) > 1 else None  # from the first of these epochs to the last
    kind = {"natural": runs[0].natural, "runs": len(runs), "settings": len(settings), "epochs": epochs}
    return kind | figures | {"change": change}


def _price_list(observed: list[Observed], study: Study, workdir) -> dict | None:
    """Compare the remedies with the first level of their axis, in the setting with the most finished remedies."""
    if REMEDY not in study.axes:
        return None
    base = next(iter(study.axes[REMEDY]))
    groups = [
        sorted(of, key=lambda run: run.run.levels[REMEDY] != base)
        for of in matched(observed, REMEDY, SEED).values()
        if base in {run.run.levels[REMEDY] for run in of}
    ]
    if not groups:
        return {"error": f"no run of the base, {base}, is done"}
    runs = max(groups, key=lambda of: len({run.run.levels[REMEDY] for run in of}))
    if len({run.run.levels[REMEDY] for run in runs}) < 2:
        return {"error": f"no remedy other than {base} is done"}
    folders = [pathlib.Path(running.folder(workdir, run.run)) for run in runs]
    others = [axis for axis in runs[0].run.levels if len({of[0].run.levels[axis] for of in groups}) > 1]
    setting = [runs[0].run.levels[axis] for axis in others if axis not in (REMEDY, SEED)]
    try:
        return trade_off(folders, split="test") | {"settings": len(groups), "setting": ", ".join(setting)}
    except UserError as error:
        return {"error": str(error)}
