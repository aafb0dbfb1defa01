"""Output of compare for two runs: findings and tables for the terminal, and compare.html with its figures."""

import pathlib
import re

import numpy as np
from rich.table import Table
from rich.text import Text

from jaxrobust import figures as figures_lib
from jaxrobust import files, formatting, reports
from jaxrobust.comparison.compare import cells
from jaxrobust.figures import compare as figures_compare
from jaxrobust.reports.findings import CAUTION, Finding, direction, few, table, under

PAGE = "compare.html"
NAMED = 5  # most classes on either side among the findings


def findings(figures: dict) -> list[Finding]:
    """What `pairs.compare_runs` found under the strongest attack: the classes that differ, the average, the worst."""
    of = figures["attacks"][figures["headline"]]
    tested = sorted((row for row in of["classes"] if row["examples"]), key=lambda row: row["difference"])
    different = [row for row in tested if row["significant"]]
    lower = [row for row in different if row["difference"] < 0]
    higher = [row for row in reversed(different) if row["difference"] > 0]
    level = f"at {100 * figures['level']:g} %, McNemar's exact test, Holm's correction"
    average, worst = of["average"], of["worst"]
    was, is_ = (f"{formatting.percent(worst[s]['accuracy'])} % ({few(worst[s]['classes'], 3)})" for s in "ab")
    return [
        Finding("classes that differ", f"{len(different)} of {len(tested)}", note=f"{len(lower)} lower in B; {level}"),
        *(_difference(row["name"], row, f"p (Holm) = {formatting.p_value(row['p_holm'])}") for row in lower[:NAMED]),
        *(_difference(row["name"], row, f"p (Holm) = {formatting.p_value(row['p_holm'])}") for row in higher[:NAMED]),
        _difference("average", average, f"p = {formatting.p_value(average['p_value'])}"),
        _difference("worst class", worst, f"A: {was}; B: {is_}"),
        Finding(
            "scope",
            f"{figures['examples']:,} images",
            verdict=CAUTION,
            note="the training seed is not covered: two runs of one config differ too; train several seeds of each",
        ),
    ]


def _difference(what: str, of: dict, note: str) -> Finding:
    difference, ends = formatting.points(of["difference"]), formatting.interval(of["interval"])
    return Finding(what, difference, ends, direction(of["difference"], of["significant"]), note)


def tables(figures: dict) -> list[tuple[str, object]]:
    """(title, table) for the terminal: all attacks, where there are several, and the classes under the strongest."""
    attack = figures["headline"]
    runs = "; ".join(f"{s.upper()} = {_run(figures[s])}" for s in "ab")
    title = f"{runs}; {figures['examples']:,} {figures['split']} images, {under(attack)}"
    shown = [(title, cells(figures["attacks"][attack], figures["confidence"]))]
    if len(figures["attacks"]) > 1:
        shown.append(("under every attack", _attack_table(figures["attacks"])))
    return [*shown, (f"findings {under(attack)}, B minus A in points", table(findings(figures)))]


def _run(run: dict) -> str:
    return f"{run['workdir']} ({run['checkpoint']} checkpoint, epoch {run['epoch']}, {run['weights']} weights)"


def _attack_table(attacks: dict) -> Table:
    shown = Table(caption="* significant at 5 %")
    shown.add_column("attack")
    for name in ("average A", "B", "B - A", "worst class A", "B", "B - A", "classes that differ"):
        shown.add_column(name, justify="right")
    for attack, of in attacks.items():
        average, worst = of["average"], of["worst"]
        shown.add_row(
            Text(attack),
            formatting.percent(average["a"]),
            formatting.percent(average["b"]),
            formatting.points(average["difference"]) + (" *" if average["significant"] else "  "),
            formatting.percent(worst["a"]["accuracy"]),
            formatting.percent(worst["b"]["accuracy"]),
            formatting.points(worst["difference"]) + (" *" if worst["significant"] else "  "),
            str(sum(row["significant"] for row in of["classes"])),
        )
    return shown


def write(folder, figures: dict) -> pathlib.Path:
    """Write compare.html and one figure per attack, as SVG and PNG, to a folder; returns the page's path."""
    folder = pathlib.Path(folder)
    drawn = {}
    names = ", ".join(f"{s.upper()} = {figures_lib.shorten(figures[s]['name'])}" for s in "ab")
    for attack, stem in file_names(figures["attacks"]).items():
        figure = draw(figures["attacks"][attack], f"{names}, {under(attack)}")
        drawn[attack] = reports.write_figure(folder, stem, figure)
    first = figures["headline"]
    facts = list(dict.fromkeys([*figures["a"]["facts"], *figures["b"]["facts"]]))
    page = figures | {
        "attacks": {first: figures["attacks"][first]} | figures["attacks"],
        "findings": findings(figures),
        "facts": [(name, [figures[s]["facts"].get(name) for s in "ab"]) for name in facts],
        "figures": drawn,
    }
    path = folder / PAGE
    files.write_atomically(path, reports.render(PAGE, page))
    return path


def file_names(attacks) -> dict[str, str]:
    """A file name without ending for each attack, none twice: an attack's name may hold a slash."""
    names = {}
    for attack in attacks:
        stem = name = "differences-" + re.sub(r"[^\w.-]+", "-", attack)
        number = 1
        while name in names.values():
            number += 1
            name = f"{stem}-{number}"
        names[attack] = name
    return names


def draw(of: dict, title: str):
    """The figure of one attack."""
    rows, average, worst = of["classes"], of["average"], of["worst"]
    classes = figures_compare.Differences(
        *(np.array([np.nan if row[name] is None else row[name] for row in rows]) for name in ("a", "b", "difference")),
        *np.array([row["interval"] for row in rows], float).T,
        np.array([row["significant"] for row in rows], bool),
    )
    overall = figures_compare.Differences(
        np.array([average["a"], worst["a"]["accuracy"]]),
        np.array([average["b"], worst["b"]["accuracy"]]),
        np.array([average["difference"], worst["difference"]]),
        *np.array([average["interval"], worst["interval"]]).T,
        np.array([average["significant"], worst["significant"]]),
    )
    return figures_compare.class_differences([row["name"] for row in rows], classes, overall, title)
