"""Output of compare for many methods: findings and tables, price_list.html with its figure, and price_list.csv."""

import pathlib

from jaxrobust import files, reports
from jaxrobust.comparison import trade_off
from jaxrobust.comparison.differences import HELPS, HURTS
from jaxrobust.figures import shorten
from jaxrobust.figures.price_list import tradeoff
from jaxrobust.formatting import NOTHING, counted, interval, p_value, percent, points
from jaxrobust.reports.findings import CAUTION, Finding, few, table, under
from jaxrobust.reports.tables import Column, Table, records_to_csv

PAGE, TABLE, FIGURE = "price_list.html", "price_list.csv", "average-against-worst"
NAMED = 5  # most methods of a kind among the findings
_GAIN = "its difference"  # of the worst class: the column that methods are ranked by


def findings(figures: dict) -> list[Finding]:
    """What `trade_off.trade_off` found: the methods that help, that only seem to, that cost, and what is covered."""
    others, judge = figures["methods"][1:], figures["judge"]
    helping, hurting = ([row for row in others if row["verdicts"]["judge"] == verdict] for verdict in (HELPS, HURTS))
    differing = [row for row in others if row["verdicts"]["disagreement"]]
    level = f"{len(hurting)} hurt it; at {100 * figures['level']:g} %, Holm's correction"
    few = "" if any(row["covers_seeds"] for row in others) else others[0]["verdicts"]["judge"]
    found = [Finding("methods that help the worst class", f"{len(helping)} of {len(others)}", "", few, level)]
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
    note = f"no verdict on {which}: fewer than {figures['min_seeds']} seeds paired with the base, so intervals "
    note += "cover the draw of the images alone"
    return Finding("scope", images, verdict=CAUTION, note=note)


def tables(figures: dict) -> list[tuple[str, Table]]:
    """(title, table) for the terminal: the verdicts, and the accuracies under the other attacks."""
    base, others, judge = figures["methods"][0], len(figures["methods"]) - 1, figures["judge"]
    title = f"{counted(others, 'method')} against {base['name']}; {figures['examples']:,} {figures['split']} images"
    return [
        (f"{title}; worst class {under(judge)}", verdict_table(figures, narrow=True)),
        *((under(attack), attack_table(figures, attack)) for attack in figures["attacks"] if attack != judge),
        ("findings, differences to the base in points", table(findings(figures))),
    ]


def attack_table(figures: dict, attack: str) -> Table:
    """Accuracies of the methods under an attack."""
    return Table([*_ACCURACIES, _CLASS], [row | row["attacks"][attack] for row in figures["methods"]])


def _verdict(row: dict) -> str:
    """The base has none, and may be on the front as well."""
    return ", ".join(filter(None, (row["verdicts"]["judge"], "Pareto" if row["pareto"] else "")))


def verdict_table(figures: dict, narrow: bool = False) -> Table:
    """The methods under the attack that judges; `narrow`: without what a line of a terminal has no room for."""
    columns = [
        *(column for column in _ACCURACIES if column.name != "p (Holm)"),
        Column("verdict", _verdict),
        Column(f"by {figures['pgd'] or 'PGD'}", lambda row: row["verdicts"]["pgd"] or ""),
        Column("disagreement", lambda row: row["verdicts"]["disagreement"] or ""),
        _CLASS,
        Column("cost per point", "cost_per_point", lambda cost: NOTHING if cost is None else f"{cost:.2f}"),
        Column("in training", "training.worst_class_accuracy", percent, _training),
        Column("speed", "speed.relative", lambda speed: NOTHING if speed is None else f"{speed:.2f}x"),
    ]
    columns.insert(
        1, Column("seeds", lambda row: len(row["seeds"]), note=lambda row: "" if row["covers_seeds"] else "!")
    )
    if narrow:
        columns = [column for column in columns if column.name not in ("disagreement", "cost per point")]
        columns = [column._replace(**_NARROW.get(column.name, {})) for column in columns]
    rows = [row | row["attacks"][figures["judge"]] for row in figures["methods"]]
    return Table(columns, rows, by=_GAIN, descending=True)


def _difference(of: dict) -> str:
    ends = interval(of["difference_interval"])
    return f"* {ends}" if of["significant"] else ends


def _training(row: dict) -> str:
    difference = row["training"]["difference"]
    return "" if difference is None else f"({points(difference)})"


def _classes(row: dict) -> str:
    """The worst class, and in how many of the seeds."""
    seeds = len(row["seeds"])
    return few((f"{of['name']} ({of['seeds']})" if seeds > 1 else of["name"] for of in row["worst"]["classes"]), 3)


# Of rows with the figures under one attack.
_ACCURACIES = (
    Column("method", "name", note=lambda row: "(base)" if row["is_base"] else ""),
    Column("average", "average.accuracy", percent, "average.interval"),
    Column("difference", "average.difference", points, lambda row: _difference(row["average"])),
    Column("p (Holm)", "average.p_holm", p_value),
    Column("worst class", "worst.accuracy", percent, "worst.interval"),
    Column(_GAIN, "worst.difference", points, lambda row: _difference(row["worst"])),
    Column("p (Holm)", "worst.p_holm", p_value),
    Column("rho", "rho", lambda rho: NOTHING if rho is None else f"{rho:+.2f}"),
)
_CLASS = Column("which class", _classes)
_NARROW = {
    "method": {"write": lambda name: shorten(name, 30)},
    "which class": {"write": lambda name: shorten(name, 16)},
    "average": {"note": ""},
    "difference": {"note": lambda row: "*" if row["average"]["significant"] else ""},
    "worst class": {"note": ""},
}


def write(folder, figures: dict) -> pathlib.Path:
    """Write price_list.html, price_list.csv and the figure, as SVG and PNG, to a folder; returns the page's path."""
    files.write_atomically(pathlib.Path(folder) / TABLE, to_csv(figures))
    page = figures | {
        "findings": table(findings(figures)),
        "figure_svg": reports.write_figure(folder, FIGURE, draw(figures)),
        "verdicts": verdict_table(figures),
        "by_attack": {attack: attack_table(figures, attack) for attack in figures["attacks"]},
        "runs": _runs(figures),
    }
    return reports.write_page(folder, PAGE, page)


def _runs(figures: dict) -> Table:
    columns = [
        Column("method", "name"),
        Column("unlike the base", lambda row: "; ".join(f"{name} = {value}" for name, value in row["differs"].items())),
        Column("seed", "seed"),
        Column("checkpoint", lambda row: f"{row['checkpoint']}, {row['weights']} weights, epoch {row['epoch']}"),
        Column("run", "workdir"),
    ]
    return Table(columns, [row | run for row in figures["methods"] for run in row["runs"]])


def draw(figures: dict):
    """The figure of average against worst class under the attack that judges."""
    title = f"average and worst class {under(figures['judge'])}, {figures['split']} images"
    rows = [
        row | row["attacks"][figures["judge"]] | {"verdict": row["verdicts"]["judge"]} for row in figures["methods"]
    ]
    return tradeoff(rows, title)


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
        roles = {role: figures[role] for role in ("pgd", "judge") if figures[role]}
        line |= {f"{name} verdict": row["verdicts"][role] for role, name in roles.items()}
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
    return records_to_csv(lines)
