"""Output of explain: findings and a table on the terminal, and explain.html with its figures."""

import pathlib

from jaxrobust import formatting, reports
from jaxrobust.explanations.ranking import LEAST_CLASSES
from jaxrobust.figures.explain import ranking, scatters
from jaxrobust.formatting import spaced
from jaxrobust.reports import findings as findings_lib
from jaxrobust.reports.findings import CAUTION, NOT_SIGNIFICANT, SIGNIFICANT, UNTESTABLE, Finding, few, under
from jaxrobust.reports.tables import Column, Table, records_to_csv

PAGE = "explain.html"
NAMED = 4  # most probes of a kind among the findings
PANELS = 4  # probes drawn class by class


def findings(figures: dict, more=()) -> list[Finding]:
    """What follows from the figures of `explain.explain`, or of a study's `explanations`; `more` findings come before
    those on what was looked at.
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
    if len(figures["classes"]) < LEAST_CLASSES:
        return [Finding(what, verdict=UNTESTABLE, note=f"{start}: {len(figures['classes'])} classes are too few")]
    level = f"at {100 * figures['level']:g} %, permuted classes, Holm's correction"
    sure = [row for row in rows if row["significant"]]
    count = Finding(what, f"{len(sure)} of {figures['tested']}", note=f"{start}; {level}")
    return [count, *map(_probe, sure[:NAMED] or rows[:1])]


def _probe(row: dict) -> Finding:
    verdict = SIGNIFICANT if row["significant"] else NOT_SIGNIFICANT
    note = findings_lib.p_of(row["p_holm"], "unrelated to robustness; Holm")
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
        number = len(figures["classes"])
        why = "the classes do not differ" if number >= LEAST_CLASSES else f"{number} classes are too few"
        return [Finding(what, verdict=UNTESTABLE, note=why)]
    best = [row for row in ranked if row["mean_held_out"] > 0][:NAMED] or ranked[:1]
    yardstick, reference = share(figures["yardstick"]["mean_held_out"]), "what any probe is to be measured by"
    reference += ", though it knows the class, and lines of probes other classes alone"
    return [
        *(
            Finding(
                f"{what}: {row['name']}",
                share(row["mean_held_out"]),
                verdict=findings_lib.tested(row["p_held_out"]),
                note=f"{findings_lib.p_of(row['p_held_out'], 'no probe tells of robustness')}; class means {yardstick}",
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
    """The probes, best first, of what `explain.explain` returns."""
    classes = len(figures["classes"])
    columns = [
        Column("probe", "name", spaced, lambda row: "(=)" if row["built_in"] else "*" if row["significant"] else ""),
        Column("looks at", "looks_at"),
        Column("correlation", "correlation", correlation, lambda row: _ends(row, classes)),
        Column("p", "p_value", formatting.p_value),
        Column("p (Holm)", "p_holm", formatting.p_value),
        Column("sign", sign),
    ]
    if figures["yardstick"]:
        columns.append(Column(f"R², held-out {figures['unit']}", "mean_held_out", share))
    caption = (
        f"* significant at {100 * figures['level']:g} % after Holm's correction over {figures['tested']} probes. (=) "
        "made of the verdicts that class accuracy is made of: it goes along with it by construction, and is not tested."
    )
    title = f"rank correlation with class accuracy, {figures['attack']}"
    return Table(columns, figures["probes"], title=title, caption=caption)


def _ends(row: dict, classes: int) -> str:
    return interval(row["interval"]) + (f" {row['classes']} classes" if 0 < row["classes"] < classes else "")


def class_table(figures: dict, r: int) -> Table:
    """The classes of a run, the weakest first, with the values of all probes."""
    probes, run = figures["probes"], figures["runs"][r]
    accuracy = f"accuracy, {figures['attack']}"
    columns = [Column("class", 0), Column("images", 1), Column(accuracy, 2, formatting.percent)]
    columns += [Column(spaced(probe["name"]), i, number) for i, probe in enumerate(probes, 3)]
    values = (probe["values"][r] for probe in probes)
    rows = zip(figures["classes"], run["count"], run["robustness"], *values, strict=True)
    return Table(columns, rows, by=accuracy)


def data_table(figures: dict) -> Table:
    """Probes of data alone by class, for the terminal; the class that lies most within others first."""
    names = list(figures["probes"])
    columns = [Column("class", 0), *(Column(name, i, number) for i, name in enumerate(names, 1))]
    rows = zip(figures["classes"], *figures["probes"].values(), strict=True)
    title = f"before training, {figures['training_images']:,} training images"
    return Table(columns, rows, by="pixel_overlap", descending=True, title=title)


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


def sign(row: dict) -> str | None:
    """Whether the sign is as expected."""
    return {None: None, True: "as expected", False: "opposite"}[row["as_expected"]]


def write(folder, figures: dict) -> pathlib.Path:
    """Write explain.html and its figures, as SVG and PNG, to a folder; returns the page's path."""
    shown = _by_correlation(figures)
    drawn = {"ranking": draw_ranking(figures, shown), "classes": _panels(figures, shown)}
    page = figures | {
        "findings": findings_lib.table(findings(figures)),
        "checkpoints": _checkpoints(figures["runs"]),
        "figures": {stem: reports.write_figure(folder, stem, figure) for stem, figure in drawn.items() if figure},
        "ranking": table(figures),
        "by_class": [class_table(figures, r) for r in range(len(figures["runs"]))],
        "several": figures["yardstick"] is not None,
        "in_common": figures["yardstick"] and share(figures["yardstick"]["mean_held_out"]),
    }
    return reports.write_page(folder, PAGE, page)


def _checkpoints(runs: list[dict]) -> Table:
    columns = [
        Column("run", "workdir"),
        Column("checkpoint", lambda run: f"{run['checkpoint']}, {run['weights']} weights, epoch {run['epoch']}"),
        Column("what it is", lambda run: "; ".join(f"{name}: {fact}" for name, fact in run["facts"].items())),
    ]
    return Table(columns, runs, sortable=False)


def draw_ranking(figures: dict, rows: list[dict], predicted: bool = False):
    """The figure of the probes in the order of the rows, if `predicted` with their R² on what was held out; or None."""
    if not rows:
        return None
    notes = ["predicts", *(share(row["mean_held_out"]) for row in rows)] if predicted and figures["yardstick"] else []
    return ranking(rows, notes)


def _panels(figures: dict, rows: list[dict]):
    if not rows:
        return None
    panels = [(row["name"], row["values"]) for row in rows[:PANELS]]
    robustness = [run["robustness"] for run in figures["runs"]]
    return scatters(panels, robustness, figures["classes"], figures["attack"])


def to_csv(figures: dict) -> str:
    """A line for each class of each run: images, robustness, and a column for each probe."""
    return records_to_csv(
        [
            {"run": run["workdir"], "class": name, "images": run["count"][c], "robustness": run["robustness"][c]}
            | {row["name"]: row["values"][r][c] for row in figures["probes"]}
            for r, run in enumerate(figures["runs"])
            for c, name in enumerate(figures["classes"])
        ]
    )
