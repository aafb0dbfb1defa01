"""Output of a study's probes: conclusions in sentences, the figure of the ranking, and tables."""

from jaxrobust import reports
from jaxrobust.figures import explain as figures_explain
from jaxrobust.reports import explain as explain_pages

# What the page's template writes figures with.
WRITE = {
    "correlation": explain_pages.correlation,
    "interval": explain_pages.interval,
    "share": explain_pages.share,
    "sign": explain_pages.sign,
}


def sentences(figures: dict) -> list[str]:
    """The findings, of a study's `explanations`."""
    found = explain_pages.conclusion(figures)
    caution = found.pop()
    if figures["yardstick"] is None:
        found.append(
            "All runs are of one setting, so no prediction can be held out; probes are in order of their correlation."
        )
    if ceiling := figures["ceiling"]:
        # Estimates of a share, which chance may take below 0.
        seeds, images = (explain_pages.share(max(0.0, ceiling[of])) for of in ("seeds", "images"))
        found.append(
            f"No more than about {seeds} can be predicted of a setting's means over seeds, and {images} by what knows "
            "nothing of the test images drawn: the rest is chance."
        )
    if figures["lacking"]:
        runs = "run is" if figures["lacking"] == 1 else "runs are"
        found.append(f"{figures['lacking']} adversarially trained {runs} not probed.")
    return [*found, caution]


def notes(figures: dict) -> list[str]:
    """What was looked at, and what could not be measured."""
    return explain_pages.notes(figures) + explain_pages.left_out(figures)


def draw(figures: dict):
    """The ranking, best first; None if no probe can be ranked."""
    rows = [row for row in figures["probes"] if not row["built_in"] and row["correlation"] is not None]
    if not rows:
        return None
    several = figures["yardstick"] is not None
    notes = ["predicts", *(explain_pages.share(row["mean_held_out"]) for row in rows)] if several else []
    columns = {name: [row[name] for row in rows] for name in ("name", "correlation", "interval", "significant", "sign")}
    return figures_explain.ranking(*columns.values(), notes=notes)


def to_csv(figures: dict) -> str:
    """A line for each class of each setting: robustness, and a column for each probe, means over seeds."""
    rows = []
    for s, setting in enumerate(figures["runs"]):
        for c, name in enumerate(figures["classes"]):
            values = [row["values"][s][c] for row in figures["probes"]]
            rows.append([setting["name"], len(setting["runs"]), name, setting["robustness"][c], *values])
    return reports.to_csv(
        ["setting", "seeds", "class", "robustness", *(row["name"] for row in figures["probes"])], rows
    )


def ranking_csv(figures: dict) -> str:
    """A line for each probe, as the page ranks them."""
    columns = ["name", "looks_at", "built_in", "classes", "correlation", "p_value", "p_holm", "significant", "sign"]
    columns += ["as_expected"] + (["mean_held_out"] if figures["yardstick"] else [])
    rows = [[*(row[column] for column in columns), *row["interval"]] for row in figures["probes"]]
    return reports.to_csv([*columns, "low", "high"], rows)
