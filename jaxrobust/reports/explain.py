"""Output of explain: a table on the terminal, conclusions in sentences, and explain.html with its figures."""

import math
import pathlib

from rich.table import Table
from rich.text import Text

from jaxrobust import files, formatting, reports
from jaxrobust.figures import explain as figures_explain

PAGE = "explain.html"
NAMED = 4  # most probes that a sentence names
PANELS = 4  # probes drawn class by class
FEW = 5  # classes with fewer than this, of which all orders are likely ones


def conclusion(figures: dict) -> list[str]:
    """What follows from the figures of `explain.explain`, or of a study's `explanations`, in a few sentences."""
    tested = _by_correlation(figures)
    sentences = [_on_strength(figures, tested)]
    if tested:
        sentences.append(_on_signs(tested))
    if figures["yardstick"] and tested:
        sentences.append(_on_held_out(figures, tested))
    sentences.append(
        "A probe that goes along with robustness need not be its cause: probes go along with each other, and only an "
        "intervention can show a cause. Intervals and tests are about these classes; with few classes, orders may "
        "agree by chance."
    )
    return sentences


def _by_correlation(figures: dict) -> list[dict]:
    """The probes that are tested, the largest correlation first."""
    tested = [row for row in figures["probes"] if not row["built_in"] and row["correlation"] is not None]
    return sorted(tested, key=lambda row: -abs(row["correlation"]))


def _on_strength(figures: dict, tested: list[dict]) -> str:
    attack, classes = figures["attack"], len(figures["classes"])
    start = "Without attack" if attack == "clean" else f"Under {attack}"
    start += "" if len(figures["runs"]) == 1 else f", in {len(figures['runs'])} {figures['unit']}s"
    if classes < FEW:
        return f"{start}: {classes} classes are too few for a rank correlation to be told from chance."
    level = f"at {100 * figures['level']:g} %, permuted classes, Holm's correction over {figures['tested']} probes"
    sure = [row for row in tested if row["significant"]]
    if not sure:
        best = f"; nearest to it {_named(tested[:1])}" if tested else ""
        return (
            f"{start}, no probe goes along significantly with the accuracies of the {classes} classes ({level}){best}."
        )
    verb = "goes" if len(sure) == 1 else "go"
    return (
        f"{start}, {len(sure)} of {figures['tested']} probes {verb} along significantly with the accuracies of the "
        f"{classes} classes ({level}): {_named(sure)}."
    )


def _named(rows: list[dict]) -> str:
    rest = len(rows) - NAMED
    named = [f"{row['name']} ({correlation(row['correlation'])} {interval(row['interval'])})" for row in rows[:NAMED]]
    return ", ".join(named) + (f" and {rest} more" if rest > 0 else "")


def _on_signs(tested: list[dict]) -> str:
    signed = [row for row in tested if row["as_expected"] is not None]
    against = [row for row in signed if not row["as_expected"]]
    right = len(signed) - len(against)
    sentence = f"{right} of {len(signed)} probes have the sign that theory predicts"
    sure = [row for row in against if row["significant"]]
    if sure:
        return f"{sentence}; significant with the opposite sign: {_named(sure)}."
    return f"{sentence}{'; of the others none is significant' if against else ''}."


def _on_held_out(figures: dict, tested: list[dict]) -> str:
    unit = figures["unit"]
    ranked = sorted((r for r in tested if r["mean_held_out"] is not None), key=lambda r: -r["mean_held_out"])
    if not ranked:
        return f"On held-out {unit}s no probe predicts anything, as the classes do not differ."
    yardstick = f"the mean of each class in the other {unit}s predicts {share(figures['yardstick']['mean_held_out'])}"
    variance = f"of the variance between the classes of a {unit} held out"
    useful = [row for row in ranked if row["mean_held_out"] > 0][:NAMED]
    if not useful:
        return f"No probe predicts anything {variance}, the best {share(ranked[0]['mean_held_out'])}; {yardstick}."
    best = ", ".join(f"{row['name']} ({share(row['mean_held_out'])})" for row in useful)
    return f"What predicts the largest shares {variance}: {best}, on average over {unit}s; {yardstick}."


def left_out(figures: dict) -> list[str]:
    """Sentences about the probes that could not be measured."""
    reasons = {}
    for run in figures["runs"]:
        for name, reason in run["left_out"].items():
            of_reason = reasons.setdefault(reason, ([], []))
            if name not in of_reason[0]:
                of_reason[0].append(name)
            if run["name"] not in of_reason[1]:
                of_reason[1].append(run["name"])
    everywhere = len(figures["runs"])
    return [
        f"Left out{'' if len(named) == everywhere else ' of ' + ', '.join(named[:3])}: {', '.join(names)} ({reason})."
        for reason, (names, named) in reasons.items()
    ]


def notes(figures: dict) -> list[str]:
    """Sentences about what was looked at."""
    said = []
    for run in figures["runs"]:
        scored = (
            "some of which robustness was scored on, so that chance in the draw of images makes probes agree with it"
            if run["test_is_scored"]
            else "on none of which robustness was scored"
        )
        number = f"{run['test_images']:,} {figures['split']} images"
        said.append(f"Looked at were {run['training_images']:,} training images, and {number}, {scored}.")
    return list(dict.fromkeys(said))


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


def write(folder, figures: dict) -> pathlib.Path:
    """Write explain.html and its figures, as SVG and PNG, to a folder; returns the page's path."""
    folder = pathlib.Path(folder)
    shown = _by_correlation(figures)
    drawn = {"ranking": _ranking(shown), "classes": _panels(figures, shown)}
    page = figures | {
        "explanation": figures,
        "conclusion": conclusion(figures),
        "left_out": left_out(figures),
        "notes": notes(figures),
        "figures": {stem: reports.write_figure(folder, stem, figure) for stem, figure in drawn.items() if figure},
        "write": {"correlation": correlation, "interval": interval, "share": share, "number": number, "sign": sign},
        "several": figures["yardstick"] is not None,
        "order": [_weakest_first(run["robustness"]) for run in figures["runs"]],
    }
    path = folder / PAGE
    files.write_atomically(path, reports.render(PAGE, page))
    return path


def _weakest_first(robustness) -> list[int]:
    return sorted(range(len(robustness)), key=lambda c: (robustness[c] is None, robustness[c] or 0))


def _ranking(rows: list[dict]):
    if not rows:
        return None
    return figures_explain.ranking(
        [row["name"] for row in rows],
        [row["correlation"] for row in rows],
        [row["interval"] for row in rows],
        [row["significant"] for row in rows],
        [row["sign"] for row in rows],
    )


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
