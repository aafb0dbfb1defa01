"""Which probes go along with the robustness of a class in a study, as JSON data; `explain` describes the probes."""

import numpy as np

from jaxrobust import files
from jaxrobust.classwise.counts import known_mean
from jaxrobust.explanations import PROBES, measuring, ranking
from jaxrobust.studies.observed import SEED, Observed, matched


def explanations(robust: list[Observed], contents: dict[str, dict], attack: str, label) -> dict | None:
    """The probes, ranked by how well they predict the robustness of the classes in a held-out setting.

    A setting is a group of runs that differ only in their seed; its robustness and probes are the means over those of
    its seeds that have them. A class of a setting is predicted from all other classes of all other settings. With a
    single setting nothing is held out, `yardstick` is null, and the probes are sorted by their correlation.

    The `ceiling` is the part of the variance between the classes of a setting that can be predicted, see
    `explanations.ranking.ceiling`: `seeds` for these images, which the yardstick can approach; `images` if the images
    are drawn again as well, for a probe measured on other images. Both are means over the settings with several seeds;
    null if there are none.

    Args:
        robust: the adversarially trained runs on one data set.
        contents: see `probing.read`.
        label: levels of a run -> name of its setting.

    Returns:
        As explain.explain, with a setting in place of a run (`unit`); null if no run is probed. `lacking` is the number
            of runs without probes.
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
    """The values of a probe for the classes that have test images, in the order of `classes`."""
    values = content["values"].get(name)
    return values and [values[content["classes"].index(of)] for of in classes]


def _mean(of_seeds) -> np.ndarray | None:
    """Mean [C] over the seeds that have a value for the class; None if no seed was measured."""
    there = [np.array(values, float) for values in of_seeds if values is not None]
    return known_mean(np.stack(there), axis=0) if there else None


def _left_out(contents: list[dict]) -> dict:
    """The probes that no seed has, each with the reason."""
    reasons = {name: reason for content in contents for name, reason in content["left_out"].items()}
    return {name: reason for name, reason in reasons.items() if all(name in of["left_out"] for of in contents)}
