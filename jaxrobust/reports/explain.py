"""Output of explain: findings and a table on the terminal, and explain.html with its figures."""

import math
import pathlib

from rich.table import Table
from rich.text import Text

from jaxrobust import files, formatting, reports
from jaxrobust.figures import explain as figures_explain
from jaxrobust.reports.findings import (
    CAUTION,
    NOT_SIGNIFICANT,
    SIGNIFICANT,
    UNTESTABLE,
    Finding,
    few,
    p_of,
    tested,
    under,
)

PAGE = "explain.html"
NAMED = 4  # most probes of a kind among the findings
PANELS = 4  # probes drawn class by class
FEW = 5  # classes with fewer than this, of which all orders are likely ones


def findings(figures: dict, more=()) -> list[Finding]:
    """What follows from the figures of `explain.explain`, or of a study's `explanations`.

    Args:
        more: findings to put before those on what was looked at.
    """
    rows = _by_correlation(figures)
    found = _on_strength(figures, rows)
    if rows:
        found += _on_signs(rows)
    if figures["yardstick"] and rows:
        found += _on_held_out(figures, rows)
    note = "no cause is shown: probes go along with each other, and only an intervention can show one"
    scope = Finding("scope", f"{len(figures['classes'])} classes", verdict=CAUTION, note=note)
    return [*found, *more, *_on_images(figures), *_left_out(figures), scope]


def _by_correlation(figures: dict) -> list[dict]:
    """The probes that are tested, the largest correlation first."""
    rows = [row for row in figures["probes"] if not row["built_in"] and row["correlation"] is not None]
    return sorted(rows, key=lambda row: -abs(row["correlation"]))


def _on_strength(figures: dict, rows: list[dict]) -> list[Finding]:
    what, start = "probes that go along with class accuracy", under(figures["attack"])
    if len(figures["runs"]) > 1:
        start += f", in {len(figures['runs'])} {figures['unit']}s"
    if len(figures["classes"]) < FEW:
        return [Finding(what, verdict=UNTESTABLE, note=f"{start}: {len(figures['classes'])} classes are too few")]
    level = f"at {100 * figures['level']:g} %, permuted classes, Holm's correction"
    sure = [row for row in rows if row["significant"]]
    count = Finding(what, f"{len(sure)} of {figures['tested']}", note=f"{start}; {level}")
    return [count, *map(_probe, sure[:NAMED] or rows[:1])]


def _probe(row: dict) -> Finding:
    verdict = SIGNIFICANT if row["significant"] else NOT_SIGNIFICANT
    note = p_of(row["p_holm"], "unrelated to robustness; Holm")
    note += "" if row["as_expected"] is None else f"; sign {sign(row)}"
    return Finding(row["name"], correlation(row["correlation"]), interval(row["interval"]), verdict, note)


def _on_signs(rows: list[dict]) -> list[Finding]:
    signed = [row for row in rows if row["as_expected"] is not None]
    against = [row for row in signed if not row["as_expected"]]
    sure = [row["name"] for row in against if row["significant"]]
    note = f"significant with the opposite sign: {few(sure, NAMED)}" if sure else ""
    return [
        Finding(
            "probes with the sign that theory predicts", f"{len(signed) - len(against)} of {len(signed)}", note=note
        )
    ]


def _on_held_out(figures: dict, rows: list[dict]) -> list[Finding]:
    what = f"R² on a held-out class of a held-out {figures['unit']}"
    ranked = sorted((r for r in rows if r["mean_held_out"] is not None), key=lambda r: -r["mean_held_out"])
    if not ranked:
        return [Finding(what, verdict=UNTESTABLE, note="the classes do not differ")]
    best = [row for row in ranked if row["mean_held_out"] > 0][:NAMED] or ranked[:1]
    yardstick, reference = share(figures["yardstick"]["mean_held_out"]), "what any probe is to be measured by"
    reference += ", though it knows the class, and lines of probes other classes alone"
    return [
        *(
            Finding(
                f"{what}: {row['name']}",
                share(row["mean_held_out"]),
                verdict=tested(row["p_held_out"]),
                note=f"{p_of(row['p_held_out'], 'no probe tells of robustness')}; class means {yardstick}",
            )
            for row in best
        ),
        Finding(f"{what}: mean of each class in the others", yardstick, note=reference),
    ]


def _on_images(figures: dict) -> list[Finding]:
    """What was looked at, and whether robustness was scored on the same images."""
    found = []
    for run in figures["runs"]:
        note = f"and {run['training_images']:,} training images; robustness was scored on "
        note += "some of them, so chance makes probes agree with it" if run["test_is_scored"] else "none of them"
        verdict = CAUTION if run["test_is_scored"] else ""
        found.append(Finding(f"{figures['split']} images looked at", f"{run['test_images']:,}", "", verdict, note))
    return list(dict.fromkeys(found))


def _left_out(figures: dict) -> list[Finding]:
    """The probes that could not be measured, by reason."""
    reasons = {}
    for run in figures["runs"]:
        for name, reason in run["left_out"].items():
            probes, runs = reasons.setdefault(reason, ({}, {}))
            probes[name] = runs[run["name"]] = None
    return [
        Finding(
            "probes left out",
            str(len(probes)),
            note=f"{', '.join(probes)}: {reason}"
            + ("" if len(runs) == len(figures["runs"]) else f" (of {few(runs, 3)})"),
        )
        for reason, (probes, runs) in reasons.items()
    ]


def table(figures: dict) -> Table:
    """The ranking for the terminal."""
    several = figures["yardstick"] is not None
    attack = figures["attack"]
    caption = (
        f"{100 * figures['confidence']:g} % intervals; * significant at {100 * figures['level']:g} % after Holm's "
    )
    caption += "correction; (=) made of the verdicts themselves, so not tested"
    table = Table(title=Text(f"rank correlation with class accuracy, {attack}"), caption=caption)
    table.add_column("probe")
    table.add_column("looks at")
    for name in ("correlation", "interval", "p", "p (Holm)", "", "sign"):
        table.add_column(name, justify="right")
    if several:
        table.add_column("R², held-out run", justify="right")
    for row in figures["probes"]:
        cells = [
            Text(row["name"] + (" (=)" if row["built_in"] else "")),
            row["looks_at"],
            correlation(row["correlation"]),
            interval(row["interval"]),
            formatting.p_value(row["p_value"]),
            formatting.p_value(row["p_holm"]),
            "*" if row["significant"] else "",
            sign(row),
        ]
        table.add_row(*cells, *([share(row["mean_held_out"])] if several else []))
    if several:
        table.add_section()
        empty = [""] * 7
        table.add_row("mean of the other runs", *empty, share(figures["yardstick"]["mean_held_out"]))
    return table


def data_table(figures: dict) -> Table:
    """Probes of data alone by class, for the terminal; the class that lies most within others first."""
    names = list(figures["probes"])
    table = Table(title=Text(f"before training, {figures['training_images']:,} training images"))
    table.add_column("class")
    for name in names:
        table.add_column(name, justify="right")
    for c in sorted(range(len(figures["classes"])), key=lambda c: -(figures["probes"]["pixel_overlap"][c] or 0)):
        table.add_row(Text(figures["classes"][c]), *(number(figures["probes"][name][c]) for name in names))
    return table


def correlation(value: float | None) -> str:
    """With its sign, two decimals."""
    return formatting.NOTHING if value is None else formatting.decimals(value, 2, "+")


def interval(ends) -> str:
    """Of correlations."""
    return "" if None in ends else f"[{correlation(ends[0])}, {correlation(ends[1])}]"


def share(value: float | None) -> str:
    """A share of variance."""
    return formatting.NOTHING if value is None else f"{formatting.decimals(100 * value, 0)} %"


def number(value: float | None) -> str:
    """Three digits."""
    return formatting.NOTHING if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def sign(row: dict) -> str:
    """Whether the sign is as expected."""
    if row["as_expected"] is None:
        return formatting.NOTHING
    return "as expected" if row["as_expected"] else "opposite"


# What templates write figures with.
WRITE = {"correlation": correlation, "interval": interval, "share": share, "number": number, "sign": sign}


def write(folder, figures: dict) -> pathlib.Path:
    """Write explain.html and its figures, as SVG and PNG, to a folder; returns the page's path."""
    folder = pathlib.Path(folder)
    shown = _by_correlation(figures)
    drawn = {"ranking": draw_ranking(figures, shown), "classes": _panels(figures, shown)}
    page = figures | {
        "explanation": figures,
        "findings": findings(figures),
        "figures": {stem: reports.write_figure(folder, stem, figure) for stem, figure in drawn.items() if figure},
        "write": WRITE,
        "several": figures["yardstick"] is not None,
        "order": [_weakest_first(run["robustness"]) for run in figures["runs"]],
    }
    path = folder / PAGE
    files.write_atomically(path, reports.render(PAGE, page))
    return path


def _weakest_first(robustness) -> list[int]:
    return sorted(range(len(robustness)), key=lambda c: (robustness[c] is None, robustness[c] or 0))


def draw_ranking(figures: dict, rows: list[dict], predicted: bool = False):
    """The figure of the probes in the order of the rows; None without any.

    Args:
        predicted: whether to write beside each probe what it predicts of what was held out.
    """
    if not rows:
        return None
    notes = ["predicts", *(share(row["mean_held_out"]) for row in rows)] if predicted and figures["yardstick"] else []
    columns = ([row[name] for row in rows] for name in ("name", "correlation", "interval", "significant", "sign"))
    return figures_explain.ranking(*columns, notes=notes)


def _panels(figures: dict, rows: list[dict]):
    if not rows:
        return None

    def numbers(values):
        return [math.nan if value is None else value for value in values]

    panels = [(row["name"], [numbers(values) for values in row["values"]]) for row in rows[:PANELS]]
    robustness = [numbers(run["robustness"]) for run in figures["runs"]]
    return figures_explain.scatters(panels, robustness, figures["classes"], figures["attack"])


def to_csv(figures: dict) -> str:
    """A line for each class of each run: images, robustness, and a column for each probe."""
    header, lines = ["run", "class", "images", "robustness", *(row["name"] for row in figures["probes"])], []
    for r, run in enumerate(figures["runs"]):
        for c, name in enumerate(figures["classes"]):
            probes = [row["values"][r][c] for row in figures["probes"]]
            lines.append([run["workdir"], name, run["count"][c], run["robustness"][c], *probes])
    return reports.to_csv(header, lines)
