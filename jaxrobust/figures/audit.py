"""Figures of an audit: what each class is turned into, and what a larger radius leaves. Style: figures/__init__.py."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator, PercentFormatter

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
def security_curves(
    radii, class_accuracy, average, interval, half, class_names: Sequence[str], threat: float, unit: str
) -> Figure:
    """Robust accuracy by radius: average, worst class and each class; and the radius at which each falls to 50 %.

    The classes that are weakest and strongest at the threat radius are in colour. Up to `NAMED_CLASSES` classes all are
    named on the right, of more only those.

    Args:
        radii: [R], rising from 0, in `unit`.
        class_accuracy: [R, C]; nan for a class without examples.
        average: [R], of all examples; interval: [R, 2], its interval.
        half: [C, 3] of each class the smallest radius at which it is at 50 % or less, and the interval of that;
            infinite beyond the last radius, nan without examples.
        class_names: C names.
        threat: the radius that the model is judged at, one of `radii`.
        unit: of the radii, for the axis.
    """
    radii, accuracy, half = np.asarray(radii, float), np.asarray(class_accuracy, float), np.asarray(half, float)
    interval = np.asarray(interval, float)
    # What is 0 for all from some radius on says nothing more.
    shown = min(int(np.flatnonzero((accuracy > 0).any(1)).max(initial=0)) + 1, len(radii) - 1)
    radii, accuracy, interval = radii[: shown + 1], accuracy[: shown + 1], interval[: shown + 1]
    average = np.asarray(average, float)[: shown + 1]
    at = int(np.abs(radii - threat).argmin())
    present = np.flatnonzero(~np.isnan(accuracy[at]))
    # Of those equal at the threat radius the one that lasts longer is the stronger.
    ranked = present[np.lexsort((half[present, 0], accuracy[at, present]))]
    marked = min(MARKED, len(ranked) // 2)
    colours = dict.fromkeys(ranked[:marked].tolist(), WORST)
    colours |= dict.fromkeys(ranked[len(ranked) - marked :].tolist(), BEST)
    named = ranked if len(ranked) <= NAMED_CLASSES else np.array([*ranked[:marked], *ranked[len(ranked) - marked :]])

    figure = Figure(figsize=(7.2, max(3.6, 1.2 + 0.17 * len(named))), layout="constrained")
    axes, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    faint = float(np.clip(30 / max(len(ranked), 1), 0.1, 0.9))
    for c in ranked:
        marked_class = int(c) in colours
        axes.plot(
            radii, accuracy[:, c], color=colours.get(int(c), CLEAN), linewidth=0.8, alpha=0.9 if marked_class else faint
        )
    axes.fill_between(radii, interval[:, 0], interval[:, 1], color=INK, alpha=0.12, linewidth=0)
    axes.plot(radii, average, color=INK, linewidth=2)
    axes.plot(radii, accuracy[:, present].min(1), color=VERMILION, linewidth=2)
    axes.axvline(threat, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
    axes.text(threat, 1.01, "threat radius", ha="center", va="bottom", fontsize=7, color=MUTED)
    _inline_names(axes, radii, accuracy, named, colours, class_names)
    axes.set_xlim(0, radii[-1])
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"radius ({unit})")
    axes.grid(axis="y")
    axes.set_title("robust accuracy", pad=14)
    handles = [
        Line2D([], [], color=INK, linewidth=2, label="average"),
        Line2D([], [], color=VERMILION, linewidth=2, label="worst class at each radius"),
        Line2D([], [], color=CLEAN, linewidth=0.8, label="each class"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)

    position = np.arange(len(named))
    value, low, high = half[named].T
    edge = radii[-1]
    right.hlines(position, np.minimum(low, edge), np.minimum(high, edge), color=MUTED, linewidth=0.8)
    dots = [colours.get(int(c), CLEAN) for c in named]
    inside = np.isfinite(value)
    right.scatter(value[inside], position[inside], s=16, color=np.array(dots)[inside], zorder=3)
    for y in position[~inside]:
        right.text(edge, y, ">", ha="center", va="center", fontsize=8, color=INK)
    right.axvline(threat, color=MUTED, linewidth=0.8, linestyle="--", zorder=0)
    right.set_yticks(position, [shorten(class_names[c]) for c in named], fontsize=8)
    right.set_xlim(0, edge * 1.03)
    right.set_ylim(len(named) - 0.4, -0.6)
    right.tick_params(axis="y", length=0)
    right.set_xlabel(f"radius ({unit})")
    right.grid(axis="x")
    right.set_title("falls to 50 % at", pad=14)
    return figure


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
