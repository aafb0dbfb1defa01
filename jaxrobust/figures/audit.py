"""Figures of an audit: what each class is turned into, and what a larger radius leaves. Style: figures/__init__.py."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from jaxrobust import figures
from jaxrobust.figures import BEST, CLEAN, INK, MUTED, NAMED_CLASSES, VERMILION, WORST, shorten, styled
from jaxrobust.figures.matrix import cell_numbers, heat_map, share_bar

NUMBERED_CELLS = 20  # most classes for which the cells hold numbers
MARKED = 3  # classes in colour at each end


@styled
def class_to_class(share, ease, exposure, class_names: Sequence[str], title: str = "") -> Figure:
    """Share of each class (row) that is turned into each other class (column), for up to `NAMED_CLASSES` classes.

    A last column holds the share that is turned into any other class, a last row the mean of each target.

    Args:
        share: [C, C], nan where it is unknown; the diagonal is left empty.
        ease: [C] of each class as a target.
        exposure: [C] of each class as a source.
        class_names: C names.
        title: one line.

    Raises:
        ValueError: too many classes to tell apart.
    """
    share, ease, exposure = (np.asarray(values, float) for values in (share, ease, exposure))
    num_classes = len(share)
    if num_classes > NAMED_CLASSES:
        raise ValueError(f"{num_classes} classes are more than the {NAMED_CLASSES} that can be told apart")
    # The margins stand apart by an empty row and column.
    cells = np.full((num_classes + 2, num_classes + 2), np.nan)
    cells[:num_classes, :num_classes] = share
    np.fill_diagonal(cells[:num_classes, :num_classes], np.nan)
    cells[:num_classes, -1], cells[-1, :num_classes] = exposure, ease
    side = max(3.6, 1.6 + 0.42 * (num_classes + 2)) if num_classes <= NUMBERED_CELLS else 7.2
    figure = Figure(figsize=(min(7.2, side + 0.9), min(6.6, side)), layout="constrained")
    axes = figure.subplots()
    # The square root scale tells a few percent from none.
    image = heat_map(axes, cells, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    size = 8 if num_classes <= 14 else 6
    muted = {"ha": "center", "va": "center", "color": MUTED}
    if num_classes <= NUMBERED_CELLS:
        some = np.where(cells > 0, cells, np.nan)
        cell_numbers(axes, some, lambda s: f"{100 * s:.0f}" if s >= 0.01 else "<1", dark=0.35, fontsize=size - 1)
        for row, column in np.argwhere(cells == 0):  # 0 only where nothing was turned
            axes.text(column, row, "0", fontsize=size - 1, **muted)
    for i in range(num_classes):
        axes.text(i, i, "·", fontsize=size, **muted)
    for row, column in np.argwhere(np.isnan(share) & ~np.eye(num_classes, dtype=bool)):
        axes.text(column, row, "?", fontsize=size - 1, **muted)
    names = [shorten(name, 18) for name in class_names]
    at = [*range(num_classes), num_classes + 1]
    axes.set_xticks(at, [*names, "any other"], rotation=90, fontsize=size)
    axes.set_yticks(at, [*names, "mean"], fontsize=size)
    axes.set(xlabel="turned into", ylabel="true class", title=title)
    share_bar(figure, image)
    return figure


@styled
def security_curves(curve: dict, class_names: Sequence[str], eps: float, norm: str) -> Figure:
    """Robust accuracy by radius: average, worst class and each class; and the radius at which each falls to 50 %.

    The classes that are weakest and strongest at the threat radius are in colour. Up to `NAMED_CLASSES` classes all are
    named on the right, of more only those.

    Args:
        curve: of audit.json: `radii` [R], rising from 0; `accuracy` [R] of all examples and its `interval` [R][2];
            `class_accuracy` [R][C], None for a class without examples; and `half`, with the smallest radius at which a
            class is at 50 % or less, `class_radius` [C], and `class_interval` [C][2], None beyond the last radius.
        class_names: C names.
        eps: the threat radius, one of the radii.
        norm: radii of "linf" are shown in 255ths, as papers write them.
    """
    scale, unit = (255, "1/255") if norm == "linf" else (1, "pixel units")
    accuracy, half = np.array(curve["class_accuracy"], float), curve["half"]
    half = np.column_stack([np.array(half[name], float) for name in ("class_radius", "class_interval")])
    half = np.where(np.isnan(half), np.inf, half) * scale
    # What is 0 for all from some radius on says nothing more.
    stop = min(int(np.flatnonzero((accuracy > 0).any(1)).max(initial=0)) + 1, len(accuracy) - 1) + 1
    names = ("radii", "accuracy", "interval")
    radii, average, interval = (np.array(curve[name][:stop], float) for name in names)
    accuracy, radii, threat = accuracy[:stop], radii * scale, eps * scale
    at = int(np.abs(radii - threat).argmin())
    present = np.flatnonzero(~np.isnan(accuracy[at]))
    # Of those equal at the threat radius the one that lasts longer is the stronger.
    ranked = present[np.lexsort((half[present, 0], accuracy[at, present]))]
    marked = min(MARKED, len(ranked) // 2)
    weakest, strongest = ranked[:marked].tolist(), ranked[len(ranked) - marked :].tolist()
    colours = dict.fromkeys(weakest, WORST) | dict.fromkeys(strongest, BEST)
    named = ranked if len(ranked) <= NAMED_CLASSES else np.array([*weakest, *strongest])

    figure = Figure(figsize=(7.2, max(3.6, 1.2 + 0.17 * len(named))), layout="constrained")
    left, right = panels = figure.subplots(1, 2, width_ratios=(1.7, 1))
    faint = float(np.clip(30 / max(len(ranked), 1), 0.1, 0.9))
    for c in ranked.tolist():
        alpha = 0.9 if c in colours else faint
        left.plot(radii, accuracy[:, c], color=colours.get(c, CLEAN), linewidth=0.8, alpha=alpha)
    left.fill_between(radii, *interval.T, color=INK, alpha=0.12, linewidth=0)
    left.plot(radii, average, color=INK, linewidth=2)
    left.plot(radii, accuracy[:, present].min(1), color=VERMILION, linewidth=2)
    left.text(threat, 1.01, "threat radius", ha="center", va="bottom", fontsize=7, color=MUTED)
    _inline_names(left, radii, accuracy, named, colours, class_names)
    left.set_xlim(0, radii[-1])
    figures.percent_axis(left.yaxis, left.set_ylim)
    left.grid(axis="y")
    left.set_title("robust accuracy", pad=14)
    marks = [
        {"color": INK, "linewidth": 2, "label": "average"},
        {"color": VERMILION, "linewidth": 2, "label": "worst class at each radius"},
        {"color": CLEAN, "linewidth": 0.8, "label": "each class"},
    ]
    figures.legend(figure, marks, ncols=3)
    _draw_half(right, half[named], [colours.get(c, CLEAN) for c in named.tolist()], radii[-1])
    figures.name_rows(right, [class_names[c] for c in named])
    for axes in panels:
        axes.axvline(threat, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
        axes.set_xlabel(f"radius ({unit})")
    return figure


def _draw_half(axes, half, colours: list[str], edge: float) -> None:
    """A row for each class: where it falls to 50 %, with the interval; > beyond the edge."""
    position = np.arange(len(half))
    value, low, high = half.T
    axes.hlines(position, np.minimum(low, edge), np.minimum(high, edge), color=MUTED, linewidth=0.8)
    inside = np.isfinite(value)
    axes.scatter(value[inside], position[inside], s=16, color=np.array(colours)[inside], zorder=3)
    for y in position[~inside]:
        axes.text(edge, y, ">", ha="center", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, edge * 1.03)
    axes.grid(axis="x")
    axes.set_title("falls to 50 % at", pad=14)


def _inline_names(axes, radii, accuracy, named, colours, class_names):
    """Each class's name on its line, one at another height than the next, if there are few."""
    if len(named) > 12:
        return
    heights = np.linspace(0.88, 0.12, max(len(named), 2))
    for height, c in zip(heights, named, strict=False):
        height = np.clip(height, accuracy[-1, c], accuracy[0, c])  # a line that is nowhere so high is named at its end
        # Accuracy falls with the radius; np.interp wants what rises.
        radius = np.interp(height, accuracy[::-1, c], radii[::-1])
        colour = colours.get(int(c), MUTED)
        axes.text(radius, height, f" {shorten(class_names[c], 12)}", fontsize=7, va="center", color=colour)
