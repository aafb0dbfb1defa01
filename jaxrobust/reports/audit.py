"""Output of an audit: the report's sections "Security curve" and "Class to class", and sentences for the terminal."""

import numpy as np

from jaxrobust import console, figures, reports
from jaxrobust.audit import results as audit_results
from jaxrobust.figures import audit as figures_audit
from jaxrobust.runs import class_summary

LISTED_NAMES = 3  # classes named in a sentence
LISTED_PAIRS = 8


def page(workdir) -> dict | None:
    """What the template `audit.html` shows; None where there is no audit.json.

    Raises:
        UserError: the file cannot be read.
    """
    content = audit_results.AUDIT.read(workdir)
    if content is None:
        return None
    curve, matrix = content["curve"], content["matrix"]
    at = curve["radii"].index(content["eps"])
    drawn = {"curve": _curve_figure(content)}
    if len(content["classes"]) <= figures.NAMED_CLASSES:
        values = [class_summary.floats(matrix[name]) for name in ("share", "ease", "exposure")]
        drawn["matrix"] = figures_audit.class_to_class(*values, content["classes"])
    return content | {
        "figures": {name: reports.figure(figure) for name, figure in drawn.items()},
        "accuracy": curve["accuracy"][at],
        "interval": tuple(curve["interval"][at]),
        "worst_class": curve["worst_class"][at],
        "worst_accuracy": curve["worst_class_accuracy"][at],
        "half_rows": _half_rows(content),
        "easiest": _first(matrix["easiest_targets"], matrix["ease"], content["classes"]),
        "most_exposed": _first(matrix["most_exposed"], matrix["exposure"], content["classes"]),
        "pairs": matrix["pairs"][:LISTED_PAIRS],
        "asymmetric": matrix["asymmetric"],
        "masking": content.get("masking"),
    }


def in_words(content: dict) -> list[str]:
    """The main results of an audit for the terminal, one sentence each."""
    curve, matrix, focused = content["curve"], content["matrix"], content["focused"]
    at = curve["radii"].index(content["eps"])
    images = f"{content['examples']:,} of {content['whole']:,}" if content["examples"] < content["whole"] else "all"
    of = f"epoch {content['epoch']}, {content['weights']} weights, {images} {content['split']} images"
    sentences = [
        f"audit of {of}: {curve['attack']} leaves {100 * curve['accuracy'][at]:.1f} %, of the worst class "
        f"({curve['worst_class'][at]}) {100 * curve['worst_class_accuracy'][at]:.1f} %"
    ]
    if one := focused["class"]:
        low, high = (100 * end for end in one["interval"])
        sentences.append(
            f"attacking {one['target']} alone (the weakest on {one['chosen_on']}) breaks {100 * one['success']:.1f} %, "
            f"{100 * one['gain']:+.1f} points [{low:.1f}, {high:.1f}] against the average"
        )
    if pair := focused["pair"]:
        bound = "" if matrix["complete"] else "at least "
        sentences.append(
            f"most often turned: {pair['source']} into {pair['target']}, {bound}{100 * pair['share']:.1f} %; "
            f"easiest target: {matrix['easiest_targets'][0]}; most exposed: {matrix['most_exposed'][0]}"
        )
    return sentences


def _curve_figure(content):
    curve, half = content["curve"], content["curve"]["half"]
    # Papers write Linf radii in 255ths.
    scale, unit = (255, "1/255") if content["norm"] == "linf" else (1, "pixel units")
    present = np.array(content["count"])[:, None] > 0
    radii = np.column_stack(
        [class_summary.floats(half["class_radius"]), class_summary.floats(half["class_interval"]).reshape(-1, 2)]
    )
    radii = np.where(present, np.where(np.isnan(radii), np.inf, radii), np.nan)
    return figures_audit.security_curves(
        np.array(curve["radii"]) * scale,
        class_summary.floats(curve["class_accuracy"]),
        curve["accuracy"],
        curve["interval"],
        radii * scale,
        content["classes"],
        content["eps"] * scale,
        unit,
    )


def _half_rows(content) -> list[dict]:
    """Each class with examples: its accuracy at the threat radius, and the radius at which it falls to 50 %."""
    curve, half = content["curve"], content["curve"]["half"]
    at = curve["radii"].index(content["eps"])
    rows = [
        {
            "name": name,
            "clean": curve["class_accuracy"][0][c],
            "accuracy": curve["class_accuracy"][at][c],
            "interval": tuple(curve["class_interval"][at][c]),
            "radius": half["class_radius"][c],
            "low": half["class_interval"][c][0],
            "high": half["class_interval"][c][1],
        }
        for c, name in enumerate(content["classes"])
        if content["count"][c]
    ]
    return sorted(rows, key=lambda row: row["accuracy"])


def _first(ranked, values, classes) -> list[tuple[str, float]]:
    """The first few names with their values."""
    value_of = dict(zip(classes, values, strict=True))
    return [(name, value_of[name]) for name in ranked[:LISTED_NAMES]]


def show(content: dict) -> None:
    """Print the findings of an audit, and warn of each sign of gradient masking."""
    for sentence in in_words(content):
        console.say(sentence)
    for finding in (content["masking"] or {}).get("findings", ()):
        console.warn(f"{finding['check']}, {finding['where']}: {finding['message']}")
