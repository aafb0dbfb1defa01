"""The figure of two runs compared class by class; see `figures` for the conventions.

figure = class_differences(names, classes, overall)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

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
    VERMILION,
    shorten,
    styled,
)

BETTER, WORSE = BLUE, VERMILION


class Differences(NamedTuple):
    """Two accuracies and their difference, B minus A, fractions [C] each; nan for a class without examples."""

    accuracy_a: Sequence[float]
    accuracy_b: Sequence[float]
    difference: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    significant: Sequence[bool]

    @property
    def order(self) -> np.ndarray:
        """Indices of the classes with examples, those that B loses most on first."""
        difference = np.asarray(self.difference, float)
        present = np.flatnonzero(~np.isnan(difference))
        return present[np.argsort(difference[present], kind="stable")]

    def take(self, classes) -> "Differences":
        return Differences(*(np.asarray(field)[classes] for field in self))


@styled
def class_differences(class_names: Sequence[str], classes: Differences, overall: Differences, title="") -> Figure:
    """Accuracy of each class under A and B, and the difference with its interval, B's losses on top.

    Up to `NAMED_CLASSES` classes are all named; beyond, the figure shows all differences by rank and names those with
    the largest losses and gains. Significant differences are filled and in colour, others hollow and grey.

    Args:
        class_names: C names.
        classes: arrays [C].
        overall: arrays [2], of the average and of the worst class, shown below the classes.
        title: one line.
    """
    order = classes.order
    overall_names = ("average", "worst class")
    if order.size <= NAMED_CLASSES:
        figure = Figure(figsize=(7.2, 1.5 + 0.24 * (order.size + 2.5)), layout="constrained")
        accuracy, difference = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
        # Half a row of space sets the two summary rows apart.
        position = np.concatenate([np.arange(order.size), order.size + 0.5 + np.arange(2)])
        rows = Differences(*(np.concatenate(pair) for pair in zip(classes.take(order), overall, strict=True)))
        names = [class_names[c] for c in order] + list(overall_names)
        _draw_accuracies(accuracy, rows, position)
        _draw_differences(difference, rows, position)
        name_rows(accuracy, names, position)
        difference.tick_params(axis="y", length=0)
        for axes in (accuracy, difference):
            axes.axhline(order.size - 0.25, color=MUTED, linewidth=0.6)
    else:
        figure = Figure(figsize=(7.2, 5.6), layout="constrained")
        columns = figure.add_gridspec(1, 2, width_ratios=(1.1, 1))
        left, right = columns[0].subgridspec(2, 1, height_ratios=(4, 1)), columns[1].subgridspec(2, 1)
        axes = figure.add_subplot(left[0])
        _draw_ranks(axes, classes.take(order))
        for rows, names, cells, heading in (
            (overall, overall_names, left[1], ""),
            (classes.take(order[:EXTREMES]), [class_names[c] for c in order[:EXTREMES]], right[0], "lowest"),
            (classes.take(order[-EXTREMES:]), [class_names[c] for c in order[-EXTREMES:]], right[1], "highest"),
        ):
            axes = figure.add_subplot(cells)
            position = np.arange(len(names))
            _draw_differences(axes, rows, position)
            name_rows(axes, names, position)
            if heading:
                axes.set_title(f"{heading} {len(names)}")
                axes.set_xlabel("")
    handles = [
        Line2D([], [], color=BETTER, marker="o", label="B better, significant"),
        Line2D([], [], color=WORSE, marker="o", label="B worse, significant"),
        Line2D([], [], color=MUTED, marker="o", markerfacecolor=PAPER, label="not significant"),
    ]
    if order.size <= NAMED_CLASSES:
        dot = {"linestyle": "none", "marker": "o", "markersize": 5}
        handles = [
            Line2D([], [], color=CLEAN, markerfacecolor=PAPER, label="A", **dot),
            Line2D([], [], color=INK, label="B", **dot),
            *handles,
        ]
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _draw_accuracies(axes, rows: Differences, position):
    """A hollow dot for A, a filled one for B, and a line between them."""
    axes.hlines(position, rows.accuracy_a, rows.accuracy_b, color=GRID, linewidth=2)
    axes.plot(rows.accuracy_a, position, "o", color=CLEAN, markerfacecolor=PAPER, markersize=5)
    axes.plot(rows.accuracy_b, position, "o", color=INK, markersize=4)
    accuracy_axis(axes)


def _draw_differences(axes, rows: Differences, position):
    """A dot with a whisker per row, around a line at no difference."""
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, difference, low, high, significant in zip(position, *rows[2:], strict=True):
        colour = _colour(difference, significant)
        axes.hlines(y, low, high, color=colour, linewidth=1.4)
        axes.plot(difference, y, "o", color=colour, markerfacecolor=colour if significant else PAPER, markersize=5)
    axes.set_xlabel("B minus A, percentage points")
    points_axis(axes.xaxis)
    axes.grid(axis="x")


def _draw_ranks(axes, rows: Differences):
    """All differences by rank, with a band for the intervals."""
    ranks = np.arange(1, len(rows.difference) + 1)
    crowded = ranks.size > VECTOR_CLASSES
    axes.fill_between(ranks, rows.low, rows.high, color=CLEAN, alpha=0.3, linewidth=0, rasterized=crowded)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.plot(ranks, rows.difference, color=MUTED, linewidth=1)
    significant = np.flatnonzero(rows.significant)
    colours = [_colour(rows.difference[i], True) for i in significant]
    axes.scatter(
        ranks[significant],
        rows.difference[significant],
        s=9,
        color=colours,
        zorder=3,
        rasterized=crowded,
        clip_on=False,
    )
    axes.set(xlim=(0, ranks.size + 1), xlabel=f"all {ranks.size} classes, by difference")
    axes.set_ylabel("B minus A, percentage points")
    points_axis(axes.yaxis)
    axes.grid(axis="y")


def name_rows(axes, names, position):
    """Names at the left of rows at `position`, the first on top."""
    axes.set_yticks(position, [shorten(name) for name in names], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(position[-1] + 0.6, -0.6)


def _colour(difference: float, significant: bool) -> str:
    if not significant:
        return MUTED
    return BETTER if difference > 0 else WORSE


def accuracy_axis(axes):
    """Shows accuracies from left to right, as percentages."""
    axes.set(xlim=(-0.02, 1.02), xlabel="accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="x")


def points_axis(axis):
    """Shows differences of fractions as percentage points with their sign."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.3g}" if value else "0"))
