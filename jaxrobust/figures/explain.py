"""The figures of explanations; see `figures` for the conventions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxrobust import figures
from jaxrobust.figures import ATTACKS, BLUE, INK, MUTED, NAMED_CLASSES, PAPER, VERMILION, shorten, styled


@styled
def ranking(rows: Sequence[dict], notes=()) -> Figure:
    """A dot with its interval for each probe, from top to bottom; a mark shows the sign that theory predicts.

    Args:
        rows: name, correlation, interval, significant and sign (that theory predicts: 1, -1 or 0) of each probe. Those
            significant are filled and in colour.
        notes: a few characters at the right end of each line, after their heading: [1 + P], or none.
    """
    figure = Figure(figsize=(7.2, 1.1 + 0.23 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=0.8)
    for y, row in enumerate(rows):
        value, sure, sign = row["correlation"], row["significant"], row["sign"]
        colour = MUTED if not sure else BLUE if value * sign >= 0 else VERMILION
        figures.whisker(axes, y, value, row["interval"], colour, sure)
        if sign:
            axes.plot(1.06 * sign, y, ">" if sign > 0 else "<", color=MUTED, markersize=4, clip_on=False)
    figures.name_rows(axes, [row["name"].replace("_", " ") for row in rows], length=40)
    axes.set(xlim=(-1.1, 1.1), xlabel="rank correlation with class accuracy under attack")
    axes.grid(axis="x")
    for y, note in enumerate(notes, start=-1):
        style = {"fontsize": 8, "va": "center", "ha": "right", "annotation_clip": False}
        place = {"xycoords": axes.get_yaxis_transform(), "xytext": (48, 0), "textcoords": "offset points"}
        axes.annotate(note, (1.0, y), color=INK, **place, **style)
    marks = [
        {"color": BLUE, "marker": "o", "label": "significant"},
        {"color": VERMILION, "marker": "o", "label": "significant, against theory"},
        {"color": MUTED, "marker": "o", "markerfacecolor": PAPER, "label": "not significant"},
        {"color": MUTED, "marker": ">", "linestyle": "none", "markersize": 5, "label": "sign predicted by theory"},
    ]
    figures.legend(figure, marks, ncols=4)
    return figure


@styled
def scatters(panels: Sequence[tuple], robustness, class_names: Sequence[str], attack: str) -> Figure:
    """A panel for each probe: its values against accuracy, a dot for each class, a colour for each run.

    Up to `NAMED_CLASSES` classes of a single run are named.

    Args:
        panels: (name, values [R][C]) of each.
        robustness: [R][C], fractions; None where unknown, as in values.
    """
    rows = -(-len(panels) // 2)
    figure, grid = figures.grid_of_panels(len(panels), 2, (3.6, 0.3 / rows + 2.7), sharey=True)
    robustness = np.array(robustness, float)
    for axes, (name, values) in zip(grid, panels, strict=True):
        for r, (x, y) in enumerate(zip(np.array(values, float), robustness, strict=True)):
            style = {"color": ATTACKS[r % len(ATTACKS)], "markersize": 4, "alpha": 0.8}
            axes.plot(x, y, "o", rasterized=figures.is_crowded(class_names), **style)
            if len(robustness) == 1 and len(class_names) <= NAMED_CLASSES:
                for c in np.flatnonzero(np.isfinite(x + y)):
                    style = {"xytext": (4, 2), "textcoords": "offset points", "fontsize": 7}
                    axes.annotate(shorten(class_names[c], 12), (x[c], y[c]), **style)
        axes.set_title(name.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        figures.percent_axis(axes.yaxis)
        axes.margins(x=0.12, y=0.1)
        axes.grid(axis="both")
    figure.supylabel("accuracy" if attack == "clean" else f"accuracy under {shorten(attack)}", fontsize=9)
    return figure
