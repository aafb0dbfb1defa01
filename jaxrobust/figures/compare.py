"""The figure of two runs compared class by class; see `figures` for the conventions."""

import numpy as np
from matplotlib.figure import Figure

from jaxrobust import figures
from jaxrobust.figures import BLUE, CLEAN, EXTREMES, GRID, INK, MUTED, NAMED_CLASSES, PAPER, VERMILION, column, styled

BETTER, WORSE = BLUE, VERMILION


@styled
def class_differences(of: dict, title: str = "") -> Figure:
    """Accuracy of each class under A and B, and the difference with its interval, B's losses on top.

    Up to `NAMED_CLASSES` classes are all named; beyond, the figure shows all differences by rank and names those with
    the largest losses and gains. Significant differences are filled and in colour, others hollow and grey.

    Args:
        of: what `comparison.Comparison.to_json` returns. The average and the worst class are shown below the classes.
        title: one line.
    """
    rows = sorted((row for row in of["classes"] if row["difference"] is not None), key=lambda row: row["difference"])
    worst = {side: of["worst"][side]["accuracy"] for side in "ab"}
    overall = [of["average"] | {"name": "average"}, of["worst"] | worst | {"name": "worst class"}]
    marks = [
        {"color": BETTER, "marker": "o", "label": "B better, significant"},
        {"color": WORSE, "marker": "o", "label": "B worse, significant"},
        {"color": MUTED, "marker": "o", "markerfacecolor": PAPER, "label": "not significant"},
    ]
    if len(rows) <= NAMED_CLASSES:
        figure = Figure(figsize=(7.2, 1.5 + 0.24 * (len(rows) + 2.5)), layout="constrained")
        accuracy, difference = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
        # Half a row of space sets the two summary rows apart.
        position = np.concatenate([np.arange(len(rows)), len(rows) + 0.5 + np.arange(2)])
        _draw_accuracies(accuracy, [*rows, *overall], position)
        _draw_differences(difference, [*rows, *overall], position)
        figures.name_rows(accuracy, [row["name"] for row in (*rows, *overall)], position)
        difference.tick_params(axis="y", length=0)
        for axes in (accuracy, difference):
            axes.axhline(len(rows) - 0.25, color=MUTED, linewidth=0.6)
        dot = {"linestyle": "none", "marker": "o", "markersize": 5}
        a, b = {"color": CLEAN, "markerfacecolor": PAPER, "label": "A"}, {"color": INK, "label": "B"}
        marks = [a | dot, b | dot, *marks]
    else:
        figure = Figure(figsize=(7.2, 5.6), layout="constrained")
        columns = figure.add_gridspec(1, 2, width_ratios=(1.1, 1))
        left, right = columns[0].subgridspec(2, 1, height_ratios=(4, 1)), columns[1].subgridspec(2, 1)
        _draw_ranks(figure.add_subplot(left[0]), rows)
        ends = ((rows[:EXTREMES], right[0], "lowest"), (rows[-EXTREMES:], right[1], "highest"))
        for shown, cells, heading in ((overall, left[1], ""), *ends):
            axes, position = figure.add_subplot(cells), np.arange(len(shown))
            _draw_differences(axes, shown, position)
            figures.name_rows(axes, [row["name"] for row in shown], position)
            if heading:
                axes.set_title(f"{heading} {len(shown)}")
                axes.set_xlabel("")
    figures.heading(figure, title)
    figures.legend(figure, marks, ncols=5)
    return figure


def _draw_accuracies(axes, rows: list[dict], position):
    """A hollow dot for A, a filled one for B, and a line between them."""
    a, b = column(rows, "a"), column(rows, "b")
    axes.hlines(position, a, b, color=GRID, linewidth=2)
    axes.plot(a, position, "o", color=CLEAN, markerfacecolor=PAPER, markersize=5)
    axes.plot(b, position, "o", color=INK, markersize=4)
    figures.accuracy_axis(axes)


def _draw_differences(axes, rows: list[dict], position):
    """A dot with a whisker per row, around a line at no difference."""
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, row in zip(position, rows, strict=True):
        figures.whisker(axes, y, row["difference"], row["interval"], _colour(row), row["significant"])
    axes.set_xlabel("B minus A, percentage points")
    figures.points_axis(axes.xaxis)
    axes.grid(axis="x")


def _draw_ranks(axes, rows: list[dict]):
    """All differences by rank, with a band for the intervals."""
    ranks, difference = np.arange(1, len(rows) + 1), column(rows, "difference")
    crowded = figures.is_crowded(rows)
    low, high = column(rows, "interval").T
    axes.fill_between(ranks, low, high, color=CLEAN, alpha=0.3, linewidth=0, rasterized=crowded)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.plot(ranks, difference, color=MUTED, linewidth=1)
    sure = [i for i, row in enumerate(rows) if row["significant"]]
    colours = [_colour(rows[i]) for i in sure]
    style = {"s": 9, "zorder": 3, "rasterized": crowded, "clip_on": False}
    axes.scatter(ranks[sure], difference[sure], color=colours, **style)
    axes.set(xlim=(0, ranks.size + 1), xlabel=f"all {ranks.size} classes, by difference")
    axes.set_ylabel("B minus A, percentage points")
    figures.points_axis(axes.yaxis)
    axes.grid(axis="y")


def _colour(row: dict) -> str:
    if not row["significant"]:
        return MUTED
    return BETTER if row["difference"] > 0 else WORSE
