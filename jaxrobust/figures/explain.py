"""The figures of explanations; see `figures` for the conventions.

figure = ranking(names, correlations, intervals, significant, signs)
figure = scatters([("separation", values)], robustness, class_names, "pgd20")
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jaxrobust.figures import ATTACKS, BLUE, INK, MUTED, NAMED_CLASSES, PAPER, VERMILION, shorten, styled


@styled
def ranking(names, correlations, intervals, significant, signs, notes=()) -> Figure:
    """A dot with its interval for each probe, from top to bottom; a mark shows the sign that theory predicts.

    Args:
        names: P of them.
        correlations: [P].
        intervals: [P][2].
        significant: [P] bool; filled and in colour.
        signs: [P], 1, -1 or 0.
        notes: a few characters at the right end of each line, after their heading: [1 + P], or none.
    """
    figure = Figure(figsize=(7.2, 1.1 + 0.23 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, (value, ends, sure, sign) in enumerate(zip(correlations, intervals, significant, signs, strict=True)):
        colour = MUTED if not sure else BLUE if value * sign >= 0 else VERMILION
        axes.hlines(y, *ends, color=colour, linewidth=1.4)
        axes.plot(value, y, "o", color=colour, markerfacecolor=colour if sure else PAPER, markersize=5)
        if sign:
            axes.plot(1.06 * sign, y, ">" if sign > 0 else "<", color=MUTED, markersize=4, clip_on=False)
    axes.set_yticks(np.arange(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set(
        ylim=(len(names) - 0.4, -0.6), xlim=(-1.1, 1.1), xlabel="rank correlation with class accuracy under attack"
    )
    axes.grid(axis="x")
    for y, note in enumerate(notes, start=-1):
        style = {"fontsize": 8, "va": "center", "ha": "right", "annotation_clip": False}
        place = {"xycoords": axes.get_yaxis_transform(), "xytext": (48, 0), "textcoords": "offset points"}
        axes.annotate(note, (1.0, y), color=INK, **place, **style)
    mark = {"linestyle": "none", "markersize": 5}
    handles = [
        Line2D([], [], color=BLUE, marker="o", label="significant"),
        Line2D([], [], color=VERMILION, marker="o", label="significant, against theory"),
        Line2D([], [], color=MUTED, marker="o", markerfacecolor=PAPER, label="not significant"),
        Line2D([], [], color=MUTED, marker=">", label="sign predicted by theory", **mark),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


@styled
def scatters(panels: Sequence[tuple], robustness, class_names: Sequence[str], attack: str) -> Figure:
    """A panel for each probe: its values against accuracy, a dot for each class, a colour for each run.

    Up to `NAMED_CLASSES` classes of a single run are named.

    Args:
        panels: (name, values [R][C]) of each.
        robustness: [R][C], fractions.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 0.3 + 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    colours = [ATTACKS[r % len(ATTACKS)] for r in range(len(robustness))]
    for axes, (name, values) in zip(grid.flat, panels, strict=False):
        for x, y, colour in zip(values, robustness, colours, strict=True):
            axes.plot(x, y, "o", color=colour, markersize=4, alpha=0.8, rasterized=len(class_names) > 200)
            if len(robustness) == 1 and len(class_names) <= NAMED_CLASSES:
                for c, label in enumerate(class_names):
                    if np.isfinite(x[c]) and np.isfinite(y[c]):
                        style = {"xytext": (4, 2), "textcoords": "offset points", "fontsize": 7}
                        axes.annotate(shorten(label, 12), (x[c], y[c]), **style)
        axes.set_title(name.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.margins(x=0.12, y=0.1)
        axes.grid(axis="both")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.supylabel("accuracy" if attack == "clean" else f"accuracy under {shorten(attack)}", fontsize=9)
    return figure
