"""Figures of what a stronger evaluation says of the classes; see `figures` for the conventions.

figure = worst_class(names, accuracy, low, high, interval, probability, candidates)
figure = attack_losses(names, losses, "pgd20", "standard")
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from jaxrobust import formatting
from jaxrobust.figures import (
    BLUE,
    CLEAN,
    EXTREMES,
    GRID,
    INK,
    MUTED,
    NAMED_CLASSES,
    PAPER,
    VECTOR_CLASSES,
    WORST,
    shorten,
    styled,
)
from jaxrobust.figures.compare import accuracy_axis, name_rows, points_axis


@styled
def worst_class(
    class_names: Sequence[str], accuracy, low, high, interval, probability, candidates, title: str = ""
) -> Figure:
    """The accuracies of the classes beside the interval of the worst, and how probably each class is the worst.

    Up to `NAMED_CLASSES` classes are all shown, lowest accuracy on top; beyond, twice `EXTREMES` of them.

    Args:
        class_names: C names.
        accuracy, low, high: [C], with the interval of each class by itself; nan for a class without examples.
        interval: (low, high) of the accuracy of the class that is truly the worst.
        probability: [C] of being the worst.
        candidates: indices of the classes that may be the worst; these are in colour.
        title: one line.
    """
    accuracy, low, high, probability = (np.asarray(values, float) for values in (accuracy, low, high, probability))
    order = np.argsort(accuracy, kind="stable")  # nan last
    order = order[: np.count_nonzero(~np.isnan(accuracy))]
    shown = order if order.size <= NAMED_CLASSES else order[: 2 * EXTREMES]
    position, colours = np.arange(shown.size), [BLUE if c in set(candidates) else CLEAN for c in shown]
    figure = Figure(figsize=(7.2, 1.3 + 0.24 * shown.size), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    left.axvspan(*interval, color=WORST, alpha=0.18, linewidth=0)
    left.hlines(position, low[shown], high[shown], color=colours, linewidth=1.4)
    left.scatter(accuracy[shown], position, s=22, color=colours, zorder=3)
    accuracy_axis(left)
    right.barh(position, probability[shown], 0.7, color=colours)
    for y, share in zip(position, probability[shown], strict=True):
        if share >= 0.0005:
            right.text(share + 0.02, y, formatting.probability(share), va="center", fontsize=7, color=INK)
    right.set(xlim=(0, 1.15), xticks=(0, 0.5, 1), xlabel="probability to be the worst")
    right.grid(axis="x")
    name_rows(left, [class_names[c] for c in shown], position)
    right.tick_params(axis="y", length=0)
    if shown.size < order.size:
        left.set_title(f"lowest {shown.size} of {order.size} classes")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=4, label="may be the worst"),
        Line2D([], [], color=CLEAN, marker="o", markersize=4, label="ruled out"),
        Patch(color=WORST, alpha=0.18, linewidth=0, label="accuracy of the worst"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


class Losses(NamedTuple):
    """What a stronger attack takes from each class, fractions [C]; nan for a class without examples."""

    before: Sequence[float]  # accuracy under the weaker attack
    after: Sequence[float]  # and under the stronger
    loss: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def take(self, classes) -> "Losses":
        return Losses(*(np.asarray(field, float)[classes] for field in self))


@styled
def attack_losses(class_names: Sequence[str], losses: Losses, weaker: str, stronger: str) -> Figure:
    """Accuracy of each class under two attacks, lowest under the stronger on top, and the loss with its interval.

    The worst class under either is in colour. Up to `NAMED_CLASSES` classes are all named; beyond, the figure shows all
    by rank, and names those of the lowest accuracy and of the largest loss.

    Args:
        class_names: C names.
        losses: arrays [C].
        weaker, stronger: names of the attacks.
    """
    after = np.asarray(losses.after, float)
    order = np.argsort(after, kind="stable")[: np.count_nonzero(~np.isnan(after))]
    worst = [np.asarray(values, float) == np.nanmin(values) for values in (losses.before, losses.after)]
    if order.size <= NAMED_CLASSES:
        figure = Figure(figsize=(7.2, 1.3 + 0.24 * order.size), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.4, 1))
        _draw_dumbbells(left, losses, order, worst, class_names)
        rows = losses.take(order)
        right.axvline(0, color=INK, linewidth=0.8)
        right.hlines(np.arange(order.size), rows.low, rows.high, color=MUTED, linewidth=1.4)
        right.plot(rows.loss, np.arange(order.size), "o", color=INK, markersize=4)
        right.set_xlabel("loss, percentage points")
        points_axis(right.xaxis)
        right.grid(axis="x")
        right.tick_params(axis="y", length=0)
    else:
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.1, 1))
        _draw_ranks(figure.add_subplot(grid[:, 0]), losses.take(order), stronger)
        loss = np.asarray(losses.loss, float)
        most = order[np.argsort(-loss[order], kind="stable")]
        for row, chosen, heading in ((0, order, "lowest accuracy"), (1, most, "largest loss")):
            axes = figure.add_subplot(grid[row, 1])
            _draw_dumbbells(axes, losses, chosen[:EXTREMES], worst, class_names)
            axes.set_title(heading)
            if row == 0:
                axes.set_xlabel("")
    dot = {"linestyle": "none", "marker": "o", "markersize": 5}
    handles = [
        Line2D([], [], color=CLEAN, markerfacecolor=PAPER, label=shorten(weaker), **dot),
        Line2D([], [], color=INK, label=shorten(stronger), **dot),
        Line2D([], [], color=WORST, markerfacecolor=PAPER, label=f"worst under {shorten(weaker)}", **dot),
        Line2D([], [], color=WORST, label=f"worst under {shorten(stronger)}", **dot),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw_dumbbells(axes, losses: Losses, classes, worst, class_names):
    """A hollow dot for the weaker attack, a filled one for the stronger, and a line between them."""
    rows, position = losses.take(classes), np.arange(len(classes))
    axes.hlines(position, rows.before, rows.after, color=GRID, linewidth=2.5)
    worst_before, worst_after = (flags[classes] for flags in worst)
    edges = np.where(worst_before, WORST, CLEAN)
    axes.scatter(rows.before, position, s=28, facecolor=PAPER, edgecolor=edges, linewidth=1.2, zorder=3)
    axes.scatter(rows.after, position, s=18, color=np.where(worst_after, WORST, INK), zorder=4)
    accuracy_axis(axes)
    name_rows(axes, [class_names[c] for c in classes], position)


def _draw_ranks(axes, rows: Losses, stronger: str):
    """All accuracies by rank: a line for the stronger attack, dots for the weaker."""
    ranks = np.arange(1, len(rows.after) + 1)
    crowded = ranks.size > VECTOR_CLASSES
    axes.vlines(ranks, rows.after, rows.before, color=GRID, linewidth=0.6, rasterized=crowded)
    axes.plot(ranks, rows.before, ".", color=CLEAN, markersize=1.5 if crowded else 3, rasterized=crowded)
    axes.plot(ranks, rows.after, color=INK)
    axes.set(xlim=(0, ranks.size + 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_xlabel(f"all {ranks.size} classes, by accuracy under {shorten(stronger)}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y")
