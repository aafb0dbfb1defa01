"""Output of compare for two runs: findings and tables for the terminal, and compare.html with its figures."""

import pathlib
import re

from jaxrobust import figures as figures_lib, reports
from jaxrobust.comparison.compare import cells
from jaxrobust.figures.compare import class_differences
from jaxrobust.formatting import interval, known, p_value, percent, points, rounded
from jaxrobust.reports.findings import CAUTION, Finding, direction, few, likely, table, under
from jaxrobust.reports.tables import Column, Table

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
    was, is_ = (f"{percent(worst[s]['accuracy'])} % ({few(worst[s]['classes'], 3)})" for s in "ab")
    named = [*lower[:NAMED], *higher[:NAMED]]
    seeds = "the training seed is not covered: two runs of one config differ too; train several seeds of each"
    return [
        Finding("classes that differ", f"{len(different)} of {len(tested)}", note=f"{len(lower)} lower in B; {level}"),
        *(_difference(row["name"], row, f"p (Holm) = {p_value(row['p_holm'])}") for row in named),
        _difference("average", average, f"p (Holm) = {p_value(average['p_holm'])}"),
        _difference("worst class", worst, f"A: {was}; B: {is_}"),
        Finding("scope", f"{figures['examples']:,} images", verdict=CAUTION, note=seeds),
    ]


def _difference(what: str, of: dict, note: str) -> Finding:
    verdict = direction(of["difference"], of["significant"])
    return Finding(what, points(of["difference"]), interval(of["interval"]), verdict, note)


def _flag(row: dict) -> str:
    return "significant" if row["significant"] else ""


def attack_table(attacks: dict) -> Table:
    """The average and the worst class under every attack."""
    rows = []
    for attack, of in attacks.items():
        worst = of["worst"] | {"a": of["worst"]["a"]["accuracy"], "b": of["worst"]["b"]["accuracy"]}
        ends = {side: of["worst"][side]["interval"] for side in "ab"}
        rows.append({"attack": attack, "of": "average", "ends": dict.fromkeys("ab")} | of["average"])
        rows.append({"attack": attack, "of": "worst class", "ends": ends} | worst)
    columns = [
        Column("attack", "attack"),
        Column("of", "of"),
        *(Column(side.upper(), side, percent, f"ends.{side}") for side in "ab"),
        Column("B minus A", "difference", points, "interval"),
        Column("p", "p_value", lambda p: "" if p is None else p_value(p)),
        Column("at 5 %", _flag),
    ]
    return Table(columns, rows)


def class_table(of: dict, level: float) -> Table:
    """The classes that have images, under one attack."""
    columns = [
        Column("class", "name"),
        Column("images", "examples", rounded),
        Column("A", "a", percent),
        Column("B", "b", percent),
        Column("right in A only", "only_a"),
        Column("right in B only", "only_b"),
        Column("B minus A", "difference", points, "interval"),
        Column("p", "p_value", p_value),
        Column("p (Holm)", "p_holm", p_value),
        Column(f"at {100 * level:g} %", _flag),
    ]
    return Table(columns, [row for row in of["classes"] if row["examples"]], by="B minus A")


def tables(figures: dict) -> list[tuple[str, object]]:
    """(title, table) for the terminal: all attacks, where there are several, and the classes under the strongest."""
    attack = figures["headline"]
    runs = "; ".join(f"{s.upper()} = {figures[s]['workdir']} ({_checkpoint(figures[s])})" for s in "ab")
    title = f"{runs}; {figures['examples']:,} {figures['split']} images, {under(attack)}"
    shown = [(title, cells(figures["attacks"][attack], figures["confidence"]))]
    if len(figures["attacks"]) > 1:
        shown.append(("under every attack", attack_table(figures["attacks"])))
    return [*shown, (f"findings {under(attack)}, B minus A in points", table(findings(figures)))]


def _checkpoint(run: dict) -> str:
    return f"{run['checkpoint']} checkpoint, epoch {run['epoch']}, {run['weights']} weights"


def _facts(a: dict, b: dict) -> Table:
    """What the two runs are."""
    about = [
        {"run": run["workdir"], "checkpoint": f"{_checkpoint(run)}, step {run['step']:,}"} | run["facts"]
        for run in (a, b)
    ]
    names = dict.fromkeys([*about[0], *about[1]])
    rows = [{"": name, "A": about[0].get(name), "B": about[1].get(name)} for name in names]
    columns = [Column(name, lambda row, name=name: known(row[name])) for name in ("", "A", "B")]
    return Table(columns, rows, sortable=False)


def write(folder, figures: dict) -> pathlib.Path:
    """Write compare.html and one figure per attack, as SVG and PNG, to a folder; returns the page's path."""
    names = ", ".join(f"{s.upper()} = {figures_lib.shorten(figures[s]['name'])}" for s in "ab")
    stems, sections = file_names(figures["attacks"]), {}
    for attack in dict.fromkeys([figures["headline"], *figures["attacks"]]):
        of, title = figures["attacks"][attack], f"{names}, {under(attack)}"
        sections[attack] = {
            "figure": reports.write_figure(folder, stems[attack], class_differences(of, title)),
            "likely": [likely(of["worst"][side]["candidates"]) for side in "ab"],
            "classes": class_table(of, figures["level"]),
            "absent": [row["name"] for row in of["classes"] if not row["examples"]],
        }
    page = figures | {
        "attacks": sections,
        "every_attack": attack_table({attack: figures["attacks"][attack] for attack in sections}),
        "findings": table(findings(figures)),
        "facts": _facts(figures["a"], figures["b"]),
    }
    return reports.write_page(folder, PAGE, page)


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
