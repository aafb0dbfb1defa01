"""The tables of a study: those of its page, and all as comma-separated values with accuracies as fractions."""

from jaxrobust.formatting import interval, p_value, percent, percentage, points, ratio
from jaxrobust.reports import explain as explain_pages
from jaxrobust.reports.tables import Column, Table, records_to_csv

_FIGURES = ("accuracy", "worst_class_accuracy", "gap", "std", "cv", "worst_class")


def page_tables(of: dict, attack: str) -> dict[str, Table]:
    """Those of one data set, by name."""
    shown = {"settings": settings_table(of, attack)}
    if of["agreement"]:
        columns = [
            Column("class", "name"),
            Column("mean rank", "mean_rank", "{:.1f}".format),
            Column("accuracy", "accuracy", percent),
            Column("the worst in", "worst_in", percentage),
            Column(f"among the lowest {of['agreement']['lowest']} in", "among_lowest_in", percentage),
        ]
        shown["order"] = Table(columns, of["agreement"]["classes"], by="mean rank")
    if of["axes"]:
        columns = [
            Column("axis", "axis"),
            Column("levels", lambda row: ", ".join(row["levels"])),
            Column("runs", "runs"),
            Column("p, which classes are weak", "p_profile", p_value),
            Column("least p possible", "least_p", p_value),
            Column("p, average", "p_average", p_value),
        ]
        shown["axes"] = Table(columns, of["axes"])
    if of["interventions"]:
        columns = [
            *(Column(name, name) for name in ("from", "to", "class")),
            *(Column(name, name, percent) for name in ("before", "after")),
            Column("change", "change", points, lambda row: interval((row["low"], row["high"]))),
            Column("pairs of runs", "pairs of runs"),
        ]
        shown["interventions"] = Table(columns, interventions(of["interventions"]))
    if of["explanations"]:
        shown["ranking"] = explain_pages.table(of["explanations"])
    return shown


def settings_table(of: dict, attack: str) -> Table:
    """The figures of each setting, means over seeds."""
    names = {"accuracy": "", "worst_class_accuracy": ", worst class"}
    columns = [
        Column("setting", "label"),
        Column("seeds", "seeds"),
        *(Column(f"clean{name}", f"clean.{key}", percent) for key, name in names.items()),
        *(Column(f"{attack}{name}", f"attacked.{key}", percent) for key, name in names.items()),
        *(Column(key, f"attacked.{key}", percent) for key in ("gap", "std")),
        Column("cv", "attacked.cv", ratio),
        Column("worst", lambda row: of["classes"][row["attacked"]["worst_class"]]),
    ]
    return Table(columns, of["settings"])


def csv_tables(of: dict) -> dict[str, str]:
    """Those of one data set, by name."""
    records = {"classes": _classes(of), "settings": _settings(of)}
    if of["agreement"]:
        records["order"] = of["agreement"]["classes"]
    if of["axes"]:
        records["axes"] = [
            {key: value for key, value in row.items() if key != "levels"} | {"levels": " ".join(row["levels"])}
            for row in of["axes"]
        ]
    if of["interventions"]:
        records["interventions"] = interventions(of["interventions"])
    if of["explanations"]:
        records |= {"explain": _probes(of["explanations"]), "ranking": _ranking(of["explanations"])}
    return {name: records_to_csv(rows) for name, rows in records.items()}


def _classes(of: dict) -> list[dict]:
    return [
        row["levels"]
        | {"seeds": row["seeds"], "class": name}
        | {"clean accuracy": row["clean"]["class_accuracy"][c]}
        | {"accuracy under attack": row["attacked"]["class_accuracy"][c]}
        for row in of["settings"]
        for c, name in enumerate(of["classes"])
    ]


def _settings(of: dict) -> list[dict]:
    records = []
    for row in of["settings"]:
        record = row["levels"] | {"radius of the training": row["radius"], "seeds": row["seeds"]}
        for kind, words in (("clean", "clean"), ("attacked", "under attack")):
            figures = row[kind] | {"worst_class": of["classes"][row[kind]["worst_class"]]}
            record |= {f"{name.replace('_', ' ')} {words}": figures[name] for name in _FIGURES}
        records.append(record)
    return records


def interventions(effects: list[dict]) -> list[dict]:
    """A row for each pair of levels and class that both have."""
    return [
        {"from": of["from"], "to": of["to"], "pairs of runs": of["pairs"], "class": row["name"]}
        | {name: row[name] for name in ("before", "after", "change")}
        | {"low": row["interval"][0], "high": row["interval"][1]}
        for of in effects
        for row in of["classes"]
    ]


def _probes(figures: dict) -> list[dict]:
    """Of each class of each setting, means over seeds."""
    return [
        {"setting": setting["name"], "seeds": len(setting["runs"]), "class": name}
        | {"robustness": setting["robustness"][c]}
        | {row["name"]: row["values"][s][c] for row in figures["probes"]}
        for s, setting in enumerate(figures["runs"])
        for c, name in enumerate(figures["classes"])
    ]


def _ranking(figures: dict) -> list[dict]:
    names = ["name", "looks_at", "built_in", "classes", "correlation", "p_value", "p_holm", "significant", "sign"]
    names += ["as_expected"] + (["mean_held_out", "p_held_out"] if figures["yardstick"] else [])
    return [
        {name: row[name] for name in names} | {"low": row["interval"][0], "high": row["interval"][1]}
        for row in figures["probes"]
    ]
