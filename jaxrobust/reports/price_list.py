"""Output of compare for many methods: findings and tables, price_list.html with its figure, and price_list.csv."""

import pathlib

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from jaxrobust import figures as figures_lib
from jaxrobust import files, reports
from jaxrobust.comparison import trade_off
from jaxrobust.comparison.differences import HELPS, HURTS
from jaxrobust.figures import price_list as figures_price_list
from jaxrobust.formatting import NOTHING, counted, interval, percent, points
from jaxrobust.reports.findings import CAUTION, Finding, few, table, under

PAGE, TABLE, FIGURE = "price_list.html", "price_list.csv", "average-against-worst"
NAMED = 5  # most methods of a kind among the findings
_NAME = 30  # characters of a method's name on the terminal
_SIGN = {HELPS: 1, HURTS: -1}


def findings(figures: dict) -> list[Finding]:
    """What `trade_off.trade_off` found: the methods that help, that only seem to, that cost, and what is covered."""
    others, judge = figures["methods"][1:], figures["judge"]
    helping, hurting = ([row for row in others if row["verdicts"]["judge"] == verdict] for verdict in (HELPS, HURTS))
    differing = [row for row in others if row["verdicts"]["disagreement"]]
    level = f"{len(hurting)} hurt it; at {100 * figures['level']:g} %, Holm's correction"
    found = [Finding("methods that help the worst class", f"{len(helping)} of {len(others)}", note=level)]
    named = [*helping[:NAMED], *hurting[-NAMED:], *differing[:NAMED]]
    found += [_on_worst(row, figures) for row in others if row in named]
    if figures["pgd"]:
        found.append(Finding(f"other verdicts by {figures['pgd']} alone", f"{len(differing)} of {len(others)}"))
    else:
        note = f"none was scored beside {judge}, so a gain that only moves PGD cannot be told apart"
        found.append(Finding("verdicts by PGD", verdict=CAUTION, note=note))
    for attack in dict.fromkeys((judge, "clean")):
        if attack in figures["attacks"]:
            found += _on_average(attack, others, judge)
    return [*found, *_on_training(others, judge), _on_scope(figures, others)]


def _on_worst(row: dict, figures: dict) -> Finding:
    of, verdicts, pgd = row["attacks"][figures["judge"]]["worst"], row["verdicts"], figures["pgd"]
    only_pgd = verdicts["disagreement"] == trade_off.ONLY_PGD
    note = ""
    if verdicts["disagreement"]:
        by_pgd = f"{points(row['attacks'][pgd]['worst']['difference'])} under {pgd}"
        note = by_pgd if only_pgd else f"{verdicts['disagreement']}: {by_pgd}"
    verdict = trade_off.ONLY_PGD if only_pgd else verdicts["judge"]
    return Finding(row["name"], points(of["difference"]), interval(of["difference_interval"]), verdict, note)


def _on_average(attack: str, others: list[dict], judge: str) -> list[Finding]:
    costly = [row for row in others if row["attacks"][attack]["average"]["verdict"] == HURTS]
    costly.sort(key=lambda row: row["attacks"][attack]["average"]["difference"])
    found = [Finding(f"methods that cost average accuracy {under(attack)}", f"{len(costly)} of {len(others)}")]
    for row in costly[:NAMED]:
        of = row["attacks"][attack]["average"]
        cost = trade_off.cost_per_point_of(row["attacks"][judge], of)
        note = "no significant gain of the worst class" if cost is None else f"{cost:.2f} per point of the worst class"
        ends = interval(of["difference_interval"])
        found.append(Finding(f"{row['name']}: average {under(attack)}", points(of["difference"]), ends, HURTS, note))
    return found


def _on_training(others: list[dict], judge: str) -> list[Finding]:
    """Methods whose worst class gains more on the training images than it can have gained on these."""
    note = "beyond the interval: memorised, or the attack of the training is weaker"
    return [
        Finding(f"{row['name']}: worst class in training", points(row["training"]["difference"]), "", CAUTION, note)
        for row in others
        if row["verdicts"]["judge"] != HELPS
        and (row["training"]["difference"] or 0) > max(row["attacks"][judge]["worst"]["difference_interval"][1], 0)
    ]


def _on_scope(figures: dict, others: list[dict]) -> Finding:
    images = f"{figures['examples']:,} images"
    lacking = [row["name"] for row in others if not row["covers_seeds"]]
    if not lacking:
        return Finding("scope", images, note="intervals and tests cover the draw of the images and the training seeds")
    which = "all methods" if len(lacking) == len(others) else few(lacking)
    note = f"the training seed is not covered for {which}: fewer than {figures['min_seeds']} seeds paired with the base"
    return Finding("scope", images, verdict=CAUTION, note=note)


def tables(figures: dict) -> list[tuple[str, Table]]:
    """(title, table) for the terminal: the verdicts, and the accuracies under every attack."""
    base, others = figures["methods"][0], len(figures["methods"]) - 1
    title = f"{counted(others, 'method')} against {base['name']}; {figures['examples']:,} {figures['split']} images"
    return [
        (f"{title}; worst class {under(figures['judge'])}", _verdict_table(figures)),
        ("under every attack, differences to the base", _attack_table(figures)),
        ("findings, differences to the base in points", table(findings(figures))),
    ]


def _name(row: dict) -> Text:
    # Text and not str: a method may be called [b].
    return Text(figures_lib.shorten(row["name"], _NAME) + (" (base)" if row["is_base"] else ""))


def _mark(of: dict) -> str:
    return "*" if of["significant"] else " "


def _verdict_table(figures: dict) -> Table:
    judge, pgd = figures["judge"], figures["pgd"]
    shown = Table(
        caption=f"differences to the base in points, {100 * figures['confidence']:g} % intervals; * significant at "
        f"{100 * figures['level']:g} % after Holm's correction; + on the Pareto front; ! fewer than "
        f"{figures['min_seeds']} pairs of seeds: the seed's chance is not covered",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("method")
    heads = ("seeds", "avg", "diff", "worst", "diff", "interval", "rho", "verdict", f"by {pgd or 'PGD'}", "")
    for name in (*heads, "worst class", "training", "speed"):
        shown.add_column(name, justify="left" if name in ("verdict", f"by {pgd or 'PGD'}", "worst class") else "right")
    for row in figures["methods"]:
        of = row["attacks"][judge]
        average, worst, verdicts = of["average"], of["worst"], row["verdicts"]
        shown.add_row(
            _name(row),
            f"{len(row['seeds'])}{' ' if row['covers_seeds'] else '!'}",
            percent(average["accuracy"]),
            points(average["difference"]) + _mark(average),
            percent(worst["accuracy"]) + ("+" if row["pareto"] else " "),
            points(worst["difference"]) + _mark(worst),
            interval(worst["difference_interval"]),
            _rho(of["rho"]),
            verdicts["judge"] or "",
            verdicts["pgd"] or "",
            "<>" if verdicts["disagreement"] else "",
            Text(_classes(worst, 16)),
            percent(row["training"]["worst_class_accuracy"]),
            _times(row["speed"]["relative"]),
        )
        if row["is_base"]:
            shown.add_section()
    return shown


def _attack_table(figures: dict) -> Table:
    shown = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    shown.add_column("method")
    for attack in figures["attacks"]:
        for name in (f"{figures_lib.shorten(attack, 12)} avg", "diff", "worst", "diff", "rho"):
            shown.add_column(name, justify="right")
    for row in figures["methods"]:
        cells = []
        for of in row["attacks"].values():
            for figure in (of["average"], of["worst"]):
                cells.append(percent(figure["accuracy"]))
                cells.append(points(figure["difference"]) + _mark(figure))
            cells.append(_rho(of["rho"]))
        shown.add_row(_name(row), *cells)
        if row["is_base"]:
            shown.add_section()
    return shown


def _rho(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.2f}"


def _times(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}x"


def _classes(worst: dict, length: int = figures_lib.NAME_LENGTH) -> str:
    """The class that is the worst in most seeds, and in how many where not in all."""
    first, *others = worst["classes"]
    name = figures_lib.shorten(first["name"], length)
    return f"{name} +{len(others)}" if others else name


def write(folder, figures: dict) -> pathlib.Path:
    """Write price_list.html, price_list.csv and the figure, as SVG and PNG, to a folder; returns the page's path."""
    folder = pathlib.Path(folder)
    files.write_atomically(folder / TABLE, to_csv(figures))
    page = figures | {
        "findings": findings(figures),
        "figure_svg": reports.write_figure(folder, FIGURE, draw(figures)),
        "show": {"rho": _rho, "times": _times, "classes": _classes},
    }
    path = folder / PAGE
    files.write_atomically(path, reports.render(PAGE, page))
    return path


def draw(figures: dict):
    """The figure of average against worst class under the attack that judges."""
    rows, judge = figures["methods"], figures["judge"]
    of = {name: [row["attacks"][judge][name] for row in rows] for name in ("average", "worst")}
    plotted = figures_price_list.Points(
        [row["name"] for row in rows],
        *([entry["accuracy"] for entry in entries] for entries in of.values()),
        *([_whisker(entry) for entry in entries] for entries in of.values()),
        [_SIGN.get(row["verdicts"]["judge"], 0) for row in rows],
        [row["pareto"] for row in rows],
    )
    return figures_price_list.tradeoff(plotted, f"average and worst class {under(judge)}, {figures['split']} images")


def _whisker(entry: dict) -> tuple[float, float]:
    if entry["difference"] is None:
        return np.nan, np.nan
    low, high = entry["difference_interval"]
    return entry["difference"] - low, high - entry["difference"]


def to_csv(figures: dict) -> str:
    """The table as comma-separated values, a line per method; accuracies are fractions."""
    lines = []
    for row in figures["methods"]:
        line = {
            "method": row["name"],
            "base": row["is_base"],
            "seeds": " ".join(map(str, row["seeds"])),
            "pairs": row["pairs"],
            "covers_seeds": row["covers_seeds"],
        }
        for attack, of in row["attacks"].items():
            for name in ("average", "worst"):
                for key, value in of[name].items():
                    if key == "classes":
                        line[f"{attack} {name} class"] = " ".join(entry["name"] for entry in value)
                    elif key.endswith("interval"):
                        low, high = value or (None, None)
                        line |= {f"{attack} {name} {key} low": low, f"{attack} {name} {key} high": high}
                    else:
                        line[f"{attack} {name} {key}"] = value
            line[f"{attack} rho"] = of["rho"]
        line |= {f"{name} verdict": row["verdicts"][role] for role, name in _roles(figures).items()}
        line |= {
            "disagreement": row["verdicts"]["disagreement"],
            "cost per point": row["cost_per_point"],
            "pareto": row["pareto"],
            "relative speed": row["speed"]["relative"],
            "training worst class": row["training"]["worst_class"],
            "training worst accuracy": row["training"]["worst_class_accuracy"],
            "training worst difference": row["training"]["difference"],
        }
        lines.append(line)
    return reports.to_csv(lines[0], [line.values() for line in lines])


def _roles(figures: dict) -> dict[str, str]:
    return {role: figures[role] for role in ("pgd", "judge") if figures[role]}
