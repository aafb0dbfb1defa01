"""Figures of the classes of a run: their accuracies, and how these moved over training; style: figures/__init__.py."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from jaxrobust import figures
from jaxrobust.figures import BEST, CLEAN, EXTREMES, INK, MUTED, NAMED_CLASSES, WORST, styled


class Curve(NamedTuple):
    """Accuracy over training under one attack. Each field is a vector with one entry per checkpoint."""

    epoch: Sequence[float]
    average: Sequence[float]
    worst: Sequence[float]


@styled
def class_bars(class_names: Sequence[str], series: Mapping[str, tuple], title: str = "") -> Figure:
    """Accuracy of each class under each attack, with intervals.

    Lowest accuracy under the strongest attack (the one with the lowest mean) on top; without accuracy (nan) left out.

    Args:
        class_names: C names.
        series: attack -> (accuracy [C], low [C], high [C]).
        title: one line.
    """
    series = {attack: np.asarray(values, float) for attack, values in series.items()}
    strongest = min(series, key=lambda attack: _mean(series[attack][0]))
    present = np.flatnonzero(~np.isnan(series[strongest][0]))
    present = present[np.argsort(series[strongest][0][present], kind="stable")]
    colours = figures.attack_colours(series)

    if present.size <= NAMED_CLASSES:
        bar_inches = max(0.24, 0.13 * len(series))
        figure = Figure(figsize=(7.2, 1.0 + bar_inches * 1.25 * present.size), layout="constrained")
        axes = figure.subplots()
        _draw_bars(axes, class_names, series, present, colours)
        axes.set_title(title)
    else:
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        # A wide panel for all classes, and two beside it for the worst and the best.
        grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
        axes, *ends = [figure.add_subplot(cells) for cells in (grid[:, 0], grid[0, 1], grid[1, 1])]
        ranks = np.arange(1, present.size + 1)
        for attack, (accuracy, low, high) in series.items():
            if attack == strongest:
                axes.fill_between(ranks, low[present], high[present], color=colours[attack], alpha=0.2, linewidth=0)
                axes.plot(ranks, accuracy[present], color=colours[attack])
            else:
                crowded = figures.is_crowded(present)
                style = {"markersize": 1.5 if crowded else 3, "alpha": 0.7, "rasterized": crowded}
                axes.plot(ranks, accuracy[present], ".", color=colours[attack], **style)
        axes.set(xlim=(1, present.size), xlabel=f"all {present.size} classes, by accuracy under {strongest}")
        figures.percent_axis(axes.yaxis, axes.set_ylim)
        axes.set_title(title)
        only_strongest = {strongest: series[strongest]}
        for end, chosen, name in zip(ends, (present[:EXTREMES], present[-EXTREMES:]), ("worst", "best"), strict=True):
            _draw_bars(end, class_names, only_strongest, chosen, colours)
            end.set_title(f"{name} {chosen.size}")
    marks = [{"color": colours[attack], "linewidth": 5, "label": attack} for attack in series]
    figures.legend(figure, marks, ncols=min(len(series), 6), fontsize=9)
    return figure


def _draw_bars(axes, class_names, series, classes, colours):
    """Horizontal bars of `classes` (indices), first on top, one per attack, with interval whiskers."""
    thickness = 0.8 / len(series)
    for i, (attack, (accuracy, low, high)) in enumerate(series.items()):
        position = np.arange(classes.size) + (i - (len(series) - 1) / 2) * thickness
        width = accuracy[classes]
        error = np.maximum([width - low[classes], high[classes] - width], 0)  # rounding can leave -1e-17
        axes.barh(position, width, 0.9 * thickness, color=colours[attack], label=attack)
        axes.errorbar(width, position, xerr=error, fmt="none", ecolor=INK, elinewidth=0.8)
    figures.name_rows(axes, [class_names[c] for c in classes])
    axes.grid(axis="x")
    figures.percent_axis(axes.xaxis, axes.set_xlim)


@styled
def learning_curves(
    curves: Mapping[str, Mapping[str, Curve]], title: str = "", selected_epoch: float | None = None
) -> Figure:
    """Average and worst class accuracy over the epochs.

    Args:
        curves: attack -> kind -> Curve, where the kind is 'raw' or 'averaged' (weights), or 'training' for
            figures that come from the training batches.
        title: one line.
        selected_epoch: epoch of the selected checkpoint, marked by a vertical line.
    """
    lines = {"averaged": "-", "raw": "--", "training": ":"}
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    measured = [attack for attack, kinds in curves.items() if set(kinds) - {"training"}]
    colours = figures.attack_colours(measured)
    for axes, figure_name, label in zip(panels, ("average", "worst"), ("average", "worst class"), strict=True):
        for attack, kinds in curves.items():
            for kind, curve in kinds.items():
                colour = MUTED if kind == "training" else colours[attack]
                # A dot per checkpoint shows where the measurements are, and a run with only one of them.
                dots = {"marker": "o", "markersize": 2.5} if kind != "training" else {"linewidth": 1}
                axes.plot(curve.epoch, getattr(curve, figure_name), linestyle=lines[kind], color=colour, **dots)
        if selected_epoch is not None:
            axes.axvline(selected_epoch, color=MUTED, linewidth=0.8, zorder=0)
        axes.set_title(label)
        axes.set_xlabel("epoch")
        figures.epoch_axis(axes.xaxis)
        axes.grid(axis="y")
    figures.percent_axis(panels[0].yaxis, panels[0].set_ylim)
    figures.heading(figure, title)
    kinds = {kind for of_attack in curves.values() for kind in of_attack}
    marks = [{"color": colours[attack], "linewidth": 4, "label": attack} for attack in measured]
    said = {"averaged": (INK, "averaged weights"), "raw": (INK, "raw weights"), "training": (MUTED, "training batches")}
    marks += [
        {"color": colour, "linestyle": lines[kind], "label": label}
        for kind, (colour, label) in said.items()
        if kind in kinds
    ]
    figures.legend(figure, marks, ncols=min(len(marks), 6))
    return figure


@styled
def class_curves(
    epoch, accuracy, class_names: Sequence[str], title: str = "", selected_epoch: float | None = None
) -> Figure:
    """Accuracy of each class over the checkpoints, worst and best ones of the last checkpoint in colour.

    Up to `NAMED_CLASSES` classes are all named at the ends of their lines; beyond, only the coloured ones.

    Args:
        epoch: [T].
        accuracy: [T, C]; nan for a class without examples.
        class_names: C names.
        title: one line.
        selected_epoch: epoch of the selected checkpoint, marked by a vertical line.
    """
    epoch, accuracy = np.asarray(epoch, float), np.asarray(accuracy, float)
    last = accuracy[-1]
    ranked = [c for c in np.argsort(last, kind="stable") if not np.isnan(last[c])]
    extremes = min(3 if len(ranked) <= NAMED_CLASSES else EXTREMES // 2, len(ranked) // 2)
    coloured = {c: WORST for c in ranked[:extremes]} | {c: BEST for c in ranked[len(ranked) - extremes :]}
    named = ranked if len(ranked) <= NAMED_CLASSES else list(coloured)
    grey = [c for c in ranked if c not in coloured]

    # The layout is set by hand: labels need the axes' height to keep apart, and the width that they take.
    font_size, names = 8, [figures.shorten(class_names[c]) for c in named]
    width, height = 7.2, max(3.6, 0.16 * len(named) + 1.0)
    left, bottom, top, gap = 0.6, 0.5, 0.35, 0.35
    right = gap + max((figures.text_inches(name, font_size) for name in names), default=0) + 0.1
    figure = Figure(figsize=(width, height))
    axes_height = height - bottom - top
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, axes_height / height), title=title
    )

    # The more lines, the fainter each, so that their density shows.
    axes.add_collection(
        LineCollection(
            [np.column_stack([epoch, accuracy[:, c]]) for c in grey],
            colors=CLEAN,
            linewidths=1.0 if len(grey) <= NAMED_CLASSES else 0.5,
            alpha=float(np.clip(40 / max(len(grey), 1), 0.1, 0.9)),
            rasterized=figures.is_crowded(grey),
        )
    )
    for c, colour in coloured.items():
        axes.plot(epoch, accuracy[:, c], color=colour)
    if len(epoch) == 1:
        axes.scatter(np.repeat(epoch, len(ranked)), last[ranked], s=9, color=[coloured.get(c, CLEAN) for c in ranked])
    if selected_epoch is not None:
        axes.axvline(selected_epoch, color=MUTED, linewidth=0.8, zorder=0)
    axes.set_xlim(epoch.min() - (len(epoch) == 1), epoch.max() + (len(epoch) == 1))
    axes.set_xlabel("epoch")
    figures.epoch_axis(axes.xaxis, 8)
    axes.grid(axis="y")
    figures.percent_axis(axes.yaxis, axes.set_ylim)

    line_height = 1.25 * font_size / 72 / axes_height  # of a label, as a share of the axes
    at = spread(last[named], line_height, 0, 1)
    axes_width = width - left - right
    inside = (epoch.max() - axes.get_xlim()[0]) / np.ptp(axes.get_xlim())
    for c, name, y in zip(named, names, at, strict=True):
        colour = coloured.get(c)
        stop = 1 + (gap - 0.06) / axes_width
        axes.plot(
            [inside, 1 + 0.06 / axes_width, stop],
            [last[c], y, y],
            transform=axes.transAxes,
            color=colour or CLEAN,
            linewidth=0.5,
            clip_on=False,
        )
        at_end = {"transform": axes.transAxes, "va": "center", "fontsize": font_size}
        axes.text(1 + gap / axes_width, y, name, color=colour or INK, **at_end)
    return figure


def spread(positions, distance: float, low: float, high: float) -> np.ndarray:
    """The positions nearest to `positions` (ascending) that are at least `distance` apart, within [low, high].

    Least squares: after subtracting i * distance the task is isotonic regression.
    If they cannot all fit, they are spaced evenly and overlap.
    """
    positions = np.asarray(positions, float)
    if positions.size > 1:
        distance = min(distance, (high - low) / (positions.size - 1))
    offset = distance * np.arange(positions.size)
    free = isotonic_regression(positions - offset).x if positions.size else positions
    return np.clip(free, low, high - (offset[-1] if offset.size else 0)) + offset


def _mean(values) -> float:
    """Mean without nan; infinite if there is nothing else."""
    values = values[~np.isnan(values)]
    return values.mean() if values.size else np.inf
