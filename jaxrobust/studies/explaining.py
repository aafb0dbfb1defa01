"""What goes along with the robustness of a class in a study, as JSON data: see `explain` for the probes themselves."""

import numpy as np

from jaxrobust import files
from jaxrobust.explanations import PROBES, measuring, ranking
from jaxrobust.studies.observed import SEED, Observed, matched


def explanations(robust: list[Observed], contents: dict[str, dict], attack: str, label) -> dict | None:
    """The probes, ranked by what they predict of a setting that was held out.

    A setting is what its runs have in common but for the seed. Its robustness and its probes are the means over its
    seeds, of those that have them, and only then is anything fitted: to all settings but one, to predict that one. A
    further seed of a setting is thus no held-out run. With a single setting nothing is held out, `yardstick` is null,
    and probes are in order of their correlation.

    The `ceiling` says what of the variance between the classes of a setting there is to predict, see
    `explanations.ranking.ceiling`: `seeds`, given these images; `images`, if they are drawn anew too. Means over the
    settings with several seeds; null without any. The yardstick, other settings on the same images, may come near
    `seeds`; a probe on other images than robustness was scored on, only near `images`.

    Args:
        robust: the adversarially trained runs on one data set.
        contents: see `probing.read`.
        label: levels of a run -> name of its setting.

    Returns:
        As of explain.explain, with a setting in place of a run (`unit`); null if no run is probed. `lacking` counts
        the runs that are not.
    """
    probed = [run for run in robust if run.run.name in contents]
    if not probed:
        return None
    groups = list(matched(probed, SEED).values())
    values = {
        name: [_mean([_value(contents[run.run.name], name, run.classes) for run in seeds]) for seeds in groups]
        for name in PROBES
    }
    robustness = [_mean([run.accuracy for run in seeds]) for seeds in groups]
    ceilings = [ranking.ceiling([run.accuracy for run in seeds], seeds[0].count) for seeds in groups]
    known = np.array([ends for ends in ceilings if not np.isnan(ends).any()])
    ceiling = dict(zip(("seeds", "images"), known.mean(0).tolist(), strict=True)) if known.size else None
    return {
        "unit": "setting",
        "attack": attack,
        "split": "test",
        "classes": list(probed[0].classes),
        "confidence": measuring.CONFIDENCE,
        "level": measuring.LEVEL,
        "lacking": len(robust) - len(probed),
        "runs": [
            {
                "name": label(seeds[0].run.levels),
                "runs": [run.run.name for run in seeds],
                "robustness": files.nullable(mean.tolist()),
                **contents[seeds[0].run.name]["images"],
                "left_out": _left_out([contents[run.run.name] for run in seeds]),
            }
            for seeds, mean in zip(groups, robustness, strict=True)
        ],
        "ceiling": ceiling,
        **measuring.rank(values, robustness),
    }


def _value(content: dict, name: str, classes: tuple[str, ...]) -> list | None:
    """A probe of the classes that have test images, in their order."""
    values = content["values"].get(name)
    return values and [values[content["classes"].index(of)] for of in classes]


def _mean(of_seeds) -> np.ndarray | None:
    """[C], over the seeds that have a class; None where no seed was measured."""
    there = [np.array(values, float) for values in of_seeds if values is not None]
    if not there:
        return None
    stacked = np.stack(there)
    finite = np.isfinite(stacked)
    total, number = np.where(finite, stacked, 0.0).sum(0), finite.sum(0)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def _left_out(contents: list[dict]) -> dict:
    """The probes that no seed has, and why."""
    reasons = {name: reason for content in contents for name, reason in content["left_out"].items()}
    return {name: reason for name, reason in reasons.items() if all(name in of["left_out"] for of in contents)}
