"""Output of compare for two runs: terminal tables, conclusions in sentences, and compare.html with its figures."""

import pathlib
import re

import numpy as np
from rich.table import Table
from rich.text import Text

from jaxrobust import figures as figures_lib
from jaxrobust import files, formatting, reports
from jaxrobust.figures import compare as figures_compare

PAGE = "compare.html"
NAMED = 5  # most classes that a sentence names


def conclusion(figures: dict) -> list[str]:
    """What follows from `pairs.compare_runs`'s figures under the strongest attack, in a few sentences."""
    attack = figures["headline"]
    of, start = figures["attacks"][attack], _under(attack)
    return [
        f"{start[0].upper()}{start[1:]}, {_on_classes(of, figures)}",
        _on_average(of["average"]),
        _on_worst(of["worst"]),
        f"Tests and intervals cover the draw of the {figures['examples']:,} {figures['split']} images, not the "
        "training seed: two runs of one config differ too. To show that a config is better, train several seeds of "
        "each.",
    ]


def _under(attack: str) -> str:
    return "without attack" if attack == "clean" else f"under {attack}"


def _on_classes(of: dict, figures: dict) -> str:
    tested = [row for row in of["classes"] if row["examples"]]
    level = f"at {100 * figures['level']:g} %, McNemar's exact test, Holm's correction over {len(tested)} classes"
    different = sorted((row for row in tested if row["significant"]), key=lambda row: row["difference"])
    if not different:
        return f"no class differs significantly ({level})."
    worse = [row for row in different if row["difference"] < 0]
    better = [row for row in reversed(different) if row["difference"] > 0]
    signs = [
        f"B is {word} on " + _some([f"{row['name']} ({formatting.points(row['difference'])})" for row in rows])
        for word, rows in (("worse", worse), ("better", better))
        if rows
    ]
    verb = "class differs" if len(different) == 1 else "classes differ"
    return f"{len(different)} {verb} significantly ({level}): {', and '.join(signs)}."


def _on_average(average: dict) -> str:
    difference = f"{formatting.points(average['difference'])} points {formatting.interval(average['interval'])}"
    if not average["significant"]:
        return f"The average does not differ significantly: {difference}, p = {formatting.p_value(average['p_value'])}."
    word = "higher" if average["difference"] > 0 else "lower"
    return f"B's average is significantly {word}: {difference}, p = {formatting.p_value(average['p_value'])}."


def _on_worst(worst: dict) -> str:
    was, is_ = (f"{formatting.percent(worst[s]['accuracy'])} % ({_some(worst[s]['classes'])})" for s in "ab")
    verdict = "differs" if worst["significant"] else "does not differ"
    return (
        f"The worst class's accuracy {verdict} significantly: {was} in A, {is_} in B, "
        f"{formatting.points(worst['difference'])} points {formatting.interval(worst['interval'])}."
    )


def _some(names: list[str]) -> str:
    """The names, or the first few and how many more."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def tables(figures: dict) -> list[tuple[str, Table]]:
    """(title, table) for the terminal: all attacks, where there are several, and the classes under the strongest."""
    attack = figures["headline"]
    runs = "; ".join(f"{s.upper()} = {_run(figures[s])}" for s in "ab")
    shown = [(f"{runs}; {figures['examples']:,} {figures['split']} images", _class_table(figures["attacks"][attack]))]
    if len(figures["attacks"]) > 1:
        shown.append(("under every attack", _attack_table(figures["attacks"])))
    shown[0][1].title = Text(_under(attack))
    return shown


def _run(run: dict) -> str:
    return f"{run['workdir']} ({run['checkpoint']} checkpoint, epoch {run['epoch']}, {run['weights']} weights)"


def _class_table(of: dict) -> Table:
    table = Table(caption="B minus A; 95 % paired intervals; * significant at 5 % (classes: after Holm's correction)")
    for name in ("class", "images", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", ""):
        table.add_column(name, justify="left" if name == "class" else "right")
    rows = sorted((row for row in of["classes"] if row["examples"]), key=lambda row: row["difference"])
    ends = figures_lib.EXTREMES
    hidden = len(rows) - 2 * ends if len(rows) > figures_lib.NAMED_CLASSES else 0
    for i, row in enumerate(rows):
        if hidden and ends <= i < len(rows) - ends:
            if i == ends:
                table.add_row(f"... {hidden} classes between", *[""] * 8)
            continue
        # Text and not str: a class may be called [b].
        table.add_row(Text(row["name"]), str(row["examples"]), *_cells(row))
    table.add_section()
    table.add_row("average", str(sum(row["examples"] for row in rows)), *_cells(of["average"] | {"p_holm": None}))
    worst = of["worst"]
    sides = {"a": worst["a"]["accuracy"], "b": worst["b"]["accuracy"], "p_value": None, "p_holm": None}
    table.add_row("worst class", "", *_cells(worst | sides))
    return table


def _cells(row: dict) -> list[str]:
    return [
        formatting.percent(row["a"]),
        formatting.percent(row["b"]),
        formatting.points(row["difference"]),
        formatting.interval(row["interval"]),
        formatting.p_value(row["p_value"]),
        formatting.p_value(row["p_holm"]),
        "*" if row["significant"] else "",
    ]


def _attack_table(attacks: dict) -> Table:
    table = Table(caption="* significant at 5 %")
    table.add_column("attack")
    for name in ("average A", "B", "B - A", "worst class A", "B", "B - A", "classes that differ"):
        table.add_column(name, justify="right")
    for attack, of in attacks.items():
        average, worst = of["average"], of["worst"]
        table.add_row(
            Text(attack),
            formatting.percent(average["a"]),
            formatting.percent(average["b"]),
            formatting.points(average["difference"]) + (" *" if average["significant"] else "  "),
            formatting.percent(worst["a"]["accuracy"]),
            formatting.percent(worst["b"]["accuracy"]),
            formatting.points(worst["difference"]) + (" *" if worst["significant"] else "  "),
            str(sum(row["significant"] for row in of["classes"])),
        )
    return table


def write(folder, figures: dict) -> pathlib.Path:
    """Write compare.html and one figure per attack, as SVG and PNG, to a folder; returns the page's path."""
    folder = pathlib.Path(folder)
    drawn = {}
    names = ", ".join(f"{s.upper()} = {figures_lib.shorten(figures[s]['name'])}" for s in "ab")
    for attack, stem in file_names(figures["attacks"]).items():
        figure = draw(figures["attacks"][attack], f"{names}, {_under(attack)}")
        drawn[attack] = reports.write_figure(folder, stem, figure)
    first = figures["headline"]
    facts = list(dict.fromkeys([*figures["a"]["facts"], *figures["b"]["facts"]]))
    page = figures | {
        "attacks": {first: figures["attacks"][first]} | figures["attacks"],
        "conclusion": conclusion(figures),
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
