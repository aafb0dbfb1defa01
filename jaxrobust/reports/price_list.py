"""Output of compare for many methods: terminal tables, conclusions, price_list.html with its figure, price_list.csv."""

import csv
import io
import pathlib

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from jaxrobust import figures as figures_lib
from jaxrobust import files, formatting, reports
from jaxrobust.comparison import trade_off
from jaxrobust.comparison.differences import HELPS, HURTS
from jaxrobust.figures import price_list as figures_price_list

PAGE, TABLE, FIGURE = "price_list.html", "price_list.csv", "average-against-worst"
_NAME = 30  # characters of a method's name on the terminal
_SIGN = {HELPS: 1, HURTS: -1}


def conclusion(figures: dict) -> list[str]:
    """What follows from `trade_off.trade_off`'s figures, in a few sentences."""
    others = figures["methods"][1:]
    sentences = [_on_help(figures, others), _on_pgd(figures, others), *_on_cost(figures, others)]
    sentences += _on_training(figures, others)
    return [*sentences, _on_scope(figures, others)]


def _under(attack: str) -> str:
    return "without attack" if attack == "clean" else f"under {attack}"


def _worst(row: dict, figures: dict) -> dict:
    return row["attacks"][figures["judge"]]["worst"]


def _gain(row: dict, figures: dict) -> str:
    of = _worst(row, figures)
    gain = f"{formatting.points(of['difference'])} points {formatting.interval(of['difference_interval'])}"
    return f"{row['name']} ({gain})"


def _on_help(figures: dict, others: list[dict]) -> str:
    level = f"at {100 * figures['level']:g} %, Holm's correction over {len(others)} {_methods(len(others))}"
    helping, hurting = ([row for row in others if row["verdicts"]["judge"] == verdict] for verdict in (HELPS, HURTS))
    under = _under(figures["judge"])
    start = f"{under[0].upper()}{under[1:]}, {len(helping) or 'none'} of {len(others)} {_methods(len(others))}"
    verb = "help" if len(helping) > 1 else "helps"
    sentence = f"{start} {verb} the worst class beyond chance ({level})"
    sentence += f": {', '.join(_gain(row, figures) for row in helping)}." if helping else "."
    if hurting:
        verb = "hurts" if len(hurting) == 1 else "hurt"
        sentence += f" {len(hurting)} {verb} it: {', '.join(_gain(row, figures) for row in reversed(hurting))}."
    return sentence


def _methods(number: int) -> str:
    return "method" if number == 1 else "methods"


def _on_pgd(figures: dict, others: list[dict]) -> str:
    judge, pgd = figures["judge"], figures["pgd"]
    if pgd is None:
        return f"All were scored under no PGD beside {judge}, so a gain that only moves PGD cannot be told apart."
    fooled = [row for row in others if row["verdicts"]["disagreement"] == trade_off.ONLY_PGD]
    missed = [row for row in others if (row["verdicts"]["disagreement"] or "").startswith("PGD misses")]
    if not fooled and not missed:
        return f"{pgd} would have given the same verdict on the worst class of each."
    sentences = []
    if fooled:
        shown = [
            f"{row['name']} ({formatting.points(row['attacks'][pgd]['worst']['difference'])} points under {pgd}, "
            f"{formatting.points(_worst(row, figures)['difference'])} under {judge})"
            for row in fooled
        ]
        verb = "moves" if len(fooled) == 1 else "move"
        sentences.append(
            f"Only {verb} PGD: {', '.join(shown)}; the gain of the worst class under {pgd} is significant, and that "
            f"under {judge} is not."
        )
    if missed:
        named = [f"{row['name']} ({row['verdicts']['judge']})" for row in missed]
        sentences.append(f"Seen {_under(judge)} and not under {pgd}: {', '.join(named)}.")
    return " ".join(sentences)


def _on_cost(figures: dict, others: list[dict]) -> list[str]:
    sentences = []
    for attack in dict.fromkeys((figures["judge"], "clean")):
        if attack not in figures["attacks"]:
            continue
        costly = [row for row in others if row["attacks"][attack]["average"]["verdict"] == HURTS]
        if not costly:
            sentences.append(f"None costs average accuracy {_under(attack)} significantly.")
            continue
        costly.sort(key=lambda row: row["attacks"][attack]["average"]["difference"])
        costs = []
        for row in costly:
            lost = row["attacks"][attack]["average"]["difference"]
            price = "without a significant gain of the worst class"
            if row["verdicts"]["judge"] == HELPS:
                per_point = -lost / _worst(row, figures)["difference"]
                price = f"{per_point:.2f} points per point that the worst class gains {_under(figures['judge'])}"
            costs.append(f"{row['name']} ({formatting.points(lost)} points, {price})")
        verb = "costs" if len(costly) == 1 else "cost"
        sentences.append(f"{len(costly)} {verb} average accuracy {_under(attack)}: {', '.join(costs)}.")
    return sentences


def _on_training(figures: dict, others: list[dict]) -> list[str]:
    """Methods whose worst class gains more on the training images than it can have gained on these."""
    learnt = [
        row
        for row in others
        if row["verdicts"]["judge"] != HELPS
        and (row["training"]["difference"] or 0) > max(_worst(row, figures)["difference_interval"][1], 0)
    ]
    if not learnt:
        return []
    shown = [f"{row['name']} ({formatting.points(row['training']['difference'])} points)" for row in learnt]
    return [
        "Gains on the worst class of the training images, under the attack of the training, beyond what the "
        f"{figures['split']} images allow: {', '.join(shown)}. Either these were memorised, or the training attack "
        "was weaker."
    ]


def _on_scope(figures: dict, others: list[dict]) -> str:
    images = f"the draw of the {figures['examples']:,} {figures['split']} images"
    few = [row["name"] for row in others if not row["covers_seeds"]]
    if not few:
        return f"Intervals and tests cover {images} and that of the training seeds."
    which = "all methods" if len(few) == len(others) else ", ".join(few)
    return (
        f"Intervals and tests cover {images}; the chance of the training seed is NOT covered for {which}, with fewer "
        f"than {figures['min_seeds']} seeds paired with the base: two runs of one config differ too."
    )


def tables(figures: dict) -> list[tuple[str, Table]]:
    """(title, table) for the terminal: the verdicts, and the accuracies under every attack."""
    base, others = figures["methods"][0], len(figures["methods"]) - 1
    title = (
        f"{others} {_methods(others)} against {base['name']}; {figures['examples']:,} {figures['split']} images; "
        f"worst class {_under(figures['judge'])}"
    )
    shown = [(title, _verdict_table(figures))]
    return [*shown, ("under every attack, differences to the base", _attack_table(figures))]


def _name(row: dict) -> Text:
    # Text and not str: a method may be called [b].
    return Text(figures_lib.shorten(row["name"], _NAME) + (" (base)" if row["is_base"] else ""))


def _mark(of: dict) -> str:
    return "*" if of["significant"] else " "


def _verdict_table(figures: dict) -> Table:
    judge, pgd = figures["judge"], figures["pgd"]
    table = Table(
        caption=f"differences to the base in points, {100 * figures['confidence']:g} % intervals; * significant at "
        f"{100 * figures['level']:g} % after Holm's correction; + on the Pareto front; ! fewer than "
        f"{figures['min_seeds']} pairs of seeds: the seed's chance is not covered",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method")
    heads = ("seeds", "avg", "diff", "worst", "diff", "interval", "rho", "verdict", f"by {pgd or 'PGD'}", "")
    for name in (*heads, "worst class", "training", "speed"):
        table.add_column(name, justify="left" if name in ("verdict", f"by {pgd or 'PGD'}", "worst class") else "right")
    for row in figures["methods"]:
        of = row["attacks"][judge]
        average, worst, verdicts = of["average"], of["worst"], row["verdicts"]
        table.add_row(
            _name(row),
            f"{len(row['seeds'])}{' ' if row['covers_seeds'] else '!'}",
            formatting.percent(average["accuracy"]),
            formatting.points(average["difference"]) + _mark(average),
            formatting.percent(worst["accuracy"]) + ("+" if row["pareto"] else " "),
            formatting.points(worst["difference"]) + _mark(worst),
            formatting.interval(worst["difference_interval"]),
            _rho(of["rho"]),
            verdicts["judge"] or "",
            verdicts["pgd"] or "",
            "<>" if verdicts["disagreement"] else "",
            Text(_classes(worst, 16)),
            formatting.percent(row["training"]["worst_class_accuracy"]),
            _times(row["speed"]["relative"]),
        )
        if row["is_base"]:
            table.add_section()
    return table


def _attack_table(figures: dict) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("method")
    for attack in figures["attacks"]:
        for name in (f"{figures_lib.shorten(attack, 12)} avg", "diff", "worst", "diff", "rho"):
            table.add_column(name, justify="right")
    for row in figures["methods"]:
        cells = []
        for of in row["attacks"].values():
            for figure in (of["average"], of["worst"]):
                cells.append(formatting.percent(figure["accuracy"]))
                cells.append(formatting.points(figure["difference"]) + _mark(figure))
            cells.append(_rho(of["rho"]))
        table.add_row(_name(row), *cells)
        if row["is_base"]:
            table.add_section()
    return table


def _rho(value: float | None) -> str:
    return formatting.NOTHING if value is None else f"{value:+.2f}"


def _times(value: float | None) -> str:
    return formatting.NOTHING if value is None else f"{value:.2f}x"


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
        "conclusion": conclusion(figures),
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
    points = figures_price_list.Points(
        [row["name"] for row in rows],
        *([entry["accuracy"] for entry in entries] for entries in of.values()),
        *([_whisker(entry) for entry in entries] for entries in of.values()),
        [_SIGN.get(row["verdicts"]["judge"], 0) for row in rows],
        [row["pareto"] for row in rows],
    )
    return figures_price_list.tradeoff(points, f"average and worst class {_under(judge)}, {figures['split']} images")


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
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _roles(figures: dict) -> dict[str, str]:
    return {role: figures[role] for role in ("pgd", "judge") if figures[role]}
