"""The tables of a study as comma-separated values; accuracies are fractions."""

from jaxrobust import reports


def tables(of: dict):
    """(name, CSV) of one data set."""
    yield "classes", classes_csv(of)
    yield "settings", settings_csv(of)
    if of["agreement"]:
        columns = list(of["agreement"]["classes"][0])
        yield "order", reports.to_csv(columns, [list(row.values()) for row in of["agreement"]["classes"]])
    if of["axes"]:
        columns = [name for name in of["axes"][0] if name != "levels"]
        rows = [[row[name] for name in columns] + [" ".join(row["levels"])] for row in of["axes"]]
        yield "axes", reports.to_csv([*columns, "levels"], rows)
    if of["interventions"]:
        yield "interventions", interventions_csv(of["interventions"])
    if of["explanations"]:
        yield "explain", probes_csv(of["explanations"])
        yield "ranking", ranking_csv(of["explanations"])


def classes_csv(of: dict) -> str:
    """A line per setting and class: seeds, accuracy clean and under attack, as fractions."""
    header = [*of["settings"][0]["levels"], "seeds", "class", "clean accuracy", "accuracy under attack"]
    rows = []
    for row in of["settings"]:
        for c, name in enumerate(of["classes"]):
            accuracies = [row[kind]["class_accuracy"][c] for kind in ("clean", "attacked")]
            rows.append([*row["levels"].values(), row["seeds"], name, *accuracies])
    return reports.to_csv(header, rows)


def settings_csv(of: dict) -> str:
    """A line per setting: its figures without and under attack, as fractions."""
    names = ("accuracy", "worst_class_accuracy", "gap", "std", "cv", "worst_class")
    header = [*of["settings"][0]["levels"], "radius of the training", "seeds"]
    header += [f"{name.replace('_', ' ')} {kind}" for kind in ("clean", "under attack") for name in names]
    rows = []
    for row in of["settings"]:
        named = [row[kind] | {"worst_class": of["classes"][row[kind]["worst_class"]]} for kind in ("clean", "attacked")]
        figures = [figures[name] for figures in named for name in names]
        rows.append([*row["levels"].values(), row["radius"], row["seeds"], *figures])
    return reports.to_csv(header, rows)


def probes_csv(figures: dict) -> str:
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
    columns += ["as_expected"] + (["mean_held_out", "p_held_out"] if figures["yardstick"] else [])
    rows = [[*(row[column] for column in columns), *row["interval"]] for row in figures["probes"]]
    return reports.to_csv([*columns, "low", "high"], rows)


def interventions_csv(effects: list[dict]) -> str:
    """A line for each pair of levels and class that both have; accuracies are fractions."""
    header = ["from", "to", "pairs of runs", "class", "before", "after", "change", "low", "high"]
    rows = [
        [of["from"], of["to"], of["pairs"], row["name"], row["before"], row["after"], row["change"], *row["interval"]]
        for of in effects
        for row in of["classes"]
    ]
    return reports.to_csv(header, rows)
