"""Output of an audit: its findings, and the report's sections "Security curve" and "Class to class"."""

import numpy as np

from jaxrobust import console, figures, formatting, reports
from jaxrobust.figures import audit as figures_audit
from jaxrobust.reports.findings import CAUTION, Finding, table
from jaxrobust.runs import class_summary

LISTED_NAMES = 3  # classes named in a finding
LISTED_PAIRS = 8


def page(content: dict) -> dict:
    """What the template `audit.html` shows.

    Args:
        content: of audit.json.
    """
    matrix = content["matrix"]
    drawn = {"curve": _curve_figure(content)}
    if len(content["classes"]) <= figures.NAMED_CLASSES:
        values = [class_summary.floats(matrix[name]) for name in ("share", "ease", "exposure")]
        drawn["matrix"] = figures_audit.class_to_class(*values, content["classes"])
    return content | {
        "figures": {name: reports.figure(figure) for name, figure in drawn.items()},
        "half_rows": _half_rows(content),
        "pairs": matrix["pairs"][:LISTED_PAIRS],
        "masking": content.get("masking"),
    }


def findings(content: dict) -> list[Finding]:
    """The main results of an audit."""
    curve, norm = content["curve"], content["norm"]
    at = curve["radii"].index(content["eps"])
    images = f"{content['examples']:,} of {content['whole']:,}" if content["examples"] < content["whole"] else "all"
    of = f"epoch {content['epoch']}, {content['weights']} weights, {images} {content['split']} images"
    what = f"audit under {curve['attack']}, radius {formatting.radius(content['eps'], norm)} in {formatting.norm(norm)}"
    half = curve["half"]["radius"]
    fall = f"beyond {formatting.radius(curve['radii'][-1], norm)}" if half is None else formatting.radius(half, norm)
    return [
        Finding(what, _percent(curve["accuracy"][at]), formatting.interval(curve["interval"][at]), note=of),
        Finding(f"weakest class in it: {curve['worst_class'][at]}", _percent(curve["worst_class_accuracy"][at])),
        Finding("radius at which all classes together fall to 50 %", fall),
        *_on_class(content["focused"]["class"]),
        *_on_pairs(content),
        *_on_masking(content.get("masking")),
    ]


def _percent(share: float | None) -> str:
    return formatting.NOTHING if share is None else f"{formatting.percent(share)} %"


def _on_class(of: dict | None) -> list[Finding]:
    if not of:
        return []
    note = f"breaks {_percent(of['success'])} of it, {_percent(of['average'])} of all images; "
    note += "the interval allows for the choice" if of["simultaneous"] else f"the weakest on {of['chosen_on']}"
    ends = formatting.interval(of["interval"])
    return [Finding(f"gain of attacking {of['target']} alone", formatting.points(of["gain"]), ends, note=note)]


def _on_pairs(content: dict) -> list[Finding]:
    matrix, classes, pair = content["matrix"], content["classes"], content["focused"]["pair"]
    bound = "" if matrix["complete"] else "at least "
    found = []
    if pair:
        note = f"{_percent(pair['average'])} over all pairs"
        note += "; the interval allows for the choice" if pair["interval"] else ""
        what, ends = f"most often turned: {pair['source']} into {pair['target']}", formatting.interval(pair["interval"])
        found.append(Finding(what, bound + _percent(pair["share"]), ends, note=note))
    for what, ranked, values in (
        ("most exposed classes", matrix["most_exposed"], matrix["exposure"]),
        ("easiest targets", matrix["easiest_targets"], matrix["ease"]),
    ):
        shares = dict(zip(classes, values, strict=True))
        if named := [f"{name} {_percent(shares[name])}" for name in ranked[:LISTED_NAMES]]:
            found.append(Finding(what, note=bound + ", ".join(named)))
    for lean in matrix["asymmetric"][:1]:
        what, back = f"most one-sided pair: {lean['source']} into {lean['target']}", _percent(lean["back"])
        found.append(Finding(what, _percent(lean["share"]), note=f"back {back}"))
    if missed := matrix["missed_by_curve"]:
        note = f"withstand {content['curve']['attack']}, which is too weak to that extent"
        found.append(Finding("images turned by the targeted attack alone", f"{missed:,}", verdict=CAUTION, note=note))
    return found


def _on_masking(masking: dict | None) -> list[Finding]:
    if not masking:
        return []
    if number := len(masking["findings"]):
        note = "true robustness may be lower than measured; no sign is a proof"
        return [Finding("signs of gradient masking", str(number), verdict=CAUTION, note=note)]
    return [Finding("signs of gradient masking", "0", note="no proof of robustness")]


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


def show(content: dict) -> None:
    """Print the findings of an audit, and warn of each sign of gradient masking."""
    console.show(table(findings(content)))
    for sign in (content["masking"] or {}).get("findings", ()):
        console.warn(f"{sign['check']}, {sign['where']}: {sign['message']}")
