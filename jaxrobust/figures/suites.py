"""Figures of what a stronger evaluation says of the classes; see `figures` for the conventions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxrobust import figures, formatting
from jaxrobust.figures import BLUE, CLEAN, EXTREMES, GRID, INK, MUTED, NAMED_CLASSES, PAPER, WORST, styled


@styled
def worst_class(rows: Sequence[dict], interval: tuple[float, float]) -> Figure:
    """The accuracies of the classes beside the interval of the worst, and how probably each class is the worst.

    Up to `NAMED_CLASSES` classes are all shown, lowest accuracy on top; beyond, twice `EXTREMES` of them.

    Args:
        rows: of each class that has examples: name, accuracy and its interval, probability (of being the worst), and
            may_be_worst; those that may are in colour.
        interval: of the accuracy of the class that is truly the worst.
    """
    order = sorted(rows, key=lambda row: row["accuracy"])
    shown = order if len(order) <= NAMED_CLASSES else order[: 2 * EXTREMES]
    position, colours = np.arange(len(shown)), [BLUE if row["may_be_worst"] else CLEAN for row in shown]
    figure = Figure(figsize=(7.2, 1.3 + 0.24 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    left.axvspan(*interval, color=WORST, alpha=0.18, linewidth=0)
    left.hlines(position, *figures.column(shown, "interval").T, color=colours, linewidth=1.4)
    left.scatter(figures.column(shown, "accuracy"), position, s=22, color=colours, zorder=3)
    figures.accuracy_axis(left)
    right.barh(position, figures.column(shown, "probability"), 0.7, color=colours)
    for y, row in enumerate(shown):
        if (share := row["probability"]) >= 0.0005:
            right.text(share + 0.02, y, formatting.probability(share), va="center", fontsize=7, color=INK)
    right.set(xlim=(0, 1.15), xticks=(0, 0.5, 1), xlabel="probability to be the worst")
    right.grid(axis="x")
    figures.name_rows(left, [row["name"] for row in shown], position)
    right.tick_params(axis="y", length=0)
    if len(shown) < len(order):
        left.set_title(f"lowest {len(shown)} of {len(order)} classes")
    marks = [
        {"color": BLUE, "marker": "o", "markersize": 4, "label": "may be the worst"},
        {"color": CLEAN, "marker": "o", "markersize": 4, "label": "ruled out"},
        Patch(color=WORST, alpha=0.18, linewidth=0, label="accuracy of the worst"),
    ]
    figures.legend(figure, marks, ncols=3)
    return figure


@styled
def attack_losses(rows: Sequence[dict], weaker: str, stronger: str) -> Figure:
    """Accuracy of each class under two attacks, lowest under the stronger on top, and the loss with its interval.

    The worst class under either is in colour. Up to `NAMED_CLASSES` classes are all named; beyond, the figure shows all
    by rank, and names those of the lowest accuracy and of the largest loss.

    Args:
        rows: name, before and after (accuracies under the weaker and the stronger attack), loss and interval (its
            interval) of each class that has examples.
        weaker, stronger: names of the attacks.
    """
    order = sorted(rows, key=lambda row: row["after"])
    worst = {side: min(row[side] for row in rows) for side in ("before", "after")}
    if len(order) <= NAMED_CLASSES:
        figure = Figure(figsize=(7.2, 1.3 + 0.24 * len(order)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.4, 1))
        _draw_dumbbells(left, order, worst)
        right.axvline(0, color=INK, linewidth=0.8)
        right.hlines(np.arange(len(order)), *figures.column(order, "interval").T, color=MUTED, linewidth=1.4)
        right.plot(figures.column(order, "loss"), np.arange(len(order)), "o", color=INK, markersize=4)
        right.set_xlabel("loss, percentage points")
        figures.points_axis(right.xaxis)
        right.grid(axis="x")
        right.tick_params(axis="y", length=0)
    else:
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.1, 1))
        _draw_ranks(figure.add_subplot(grid[:, 0]), order, stronger)
        most = sorted(order, key=lambda row: -row["loss"])
        for place, chosen, heading in ((0, order, "lowest accuracy"), (1, most, "largest loss")):
            axes = figure.add_subplot(grid[place, 1])
            _draw_dumbbells(axes, chosen[:EXTREMES], worst)
            axes.set_title(heading)
            if place == 0:
                axes.set_xlabel("")
    dot = {"linestyle": "none", "marker": "o", "markersize": 5}
    marks = [
        {"color": CLEAN, "markerfacecolor": PAPER, "label": figures.shorten(weaker)},
        {"color": INK, "label": figures.shorten(stronger)},
        {"color": WORST, "markerfacecolor": PAPER, "label": f"worst under {figures.shorten(weaker)}"},
        {"color": WORST, "label": f"worst under {figures.shorten(stronger)}"},
    ]
    figures.legend(figure, [mark | dot for mark in marks], ncols=4)
    return figure


def _draw_dumbbells(axes, rows: list[dict], worst: dict):
    """A hollow dot for the weaker attack, a filled one for the stronger, and a line between them."""
    before, after, position = figures.column(rows, "before"), figures.column(rows, "after"), np.arange(len(rows))
    axes.hlines(position, before, after, color=GRID, linewidth=2.5)
    edges = np.where(before == worst["before"], WORST, CLEAN)
    axes.scatter(before, position, s=28, facecolor=PAPER, edgecolor=edges, linewidth=1.2, zorder=3)
    axes.scatter(after, position, s=18, color=np.where(after == worst["after"], WORST, INK), zorder=4)
    figures.accuracy_axis(axes)
    figures.name_rows(axes, [row["name"] for row in rows], position)


def _draw_ranks(axes, rows: list[dict], stronger: str):
    """All accuracies by rank: a line for the stronger attack, dots for the weaker."""
    ranks, before, after = np.arange(1, len(rows) + 1), figures.column(rows, "before"), figures.column(rows, "after")
    crowded = figures.is_crowded(rows)
    axes.vlines(ranks, after, before, color=GRID, linewidth=0.6, rasterized=crowded)
    axes.plot(ranks, before, ".", color=CLEAN, markersize=1.5 if crowded else 3, rasterized=crowded)
    axes.plot(ranks, after, color=INK)
    axes.set(xlim=(0, ranks.size + 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_xlabel(f"all {ranks.size} classes, by accuracy under {figures.shorten(stronger)}")
    figures.percent_axis(axes.yaxis)
    axes.grid(axis="y")
