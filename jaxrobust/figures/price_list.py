"""The figure of a trade-off table, average against worst class; see `figures` for the conventions."""

from collections.abc import Sequence

import numpy as np
import textalloc
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jaxrobust import figures
from jaxrobust.figures import BLUE, CLEAN, EXTREMES, GRID, INK, MUTED, NAMED_CLASSES, PAPER, VERMILION, styled

COLOURS = {"helps": BLUE, "hurts": VERMILION}
_FONT_SIZE = 7.5
_WHISKER_SHARE = 0.5  # of the whiskers that the axes hold in full; long ones are cut


@styled
def tradeoff(rows: Sequence[dict], title: str = "") -> Figure:
    """Average against worst class, a point with whiskers per method, and a line through the Pareto front.

    Up to `NAMED_CLASSES` methods are all named; beyond, the base, those on the front, those that help or hurt, and
    those with the best and the weakest worst class.

    Args:
        rows: one per method, the base first: name; average and worst, each with accuracy, difference and its
            difference_interval (None of the base); verdict ("helps", "hurts" or another); and pareto.
        title: one line.
    """
    worst, average = (figures.column([row[name] for row in rows], "accuracy") for name in ("worst", "average"))
    errors = [np.array([_whisker(row[name]) for row in rows]) for name in ("average", "worst")]
    figure = Figure(figsize=(7.2, 5.4 + 0.06 * min(len(rows), NAMED_CLASSES)), layout="constrained")
    axes = figure.subplots()
    limits = [_limits(values, error) for values, error in zip((average, worst), errors, strict=True)]
    axes.set(xlim=limits[0], ylim=limits[1], xlabel="average accuracy", ylabel="accuracy of the worst class")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.axvline(average[0], color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.axhline(worst[0], color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    _draw_front(axes, average, worst, np.array([row["pareto"] for row in rows]))
    colours = [COLOURS.get(row["verdict"], MUTED) for row in rows]
    for x, y, dx, dy, colour in zip(average, worst, *errors, colours, strict=True):
        style = {"color": colour, "linewidth": 0.8, "alpha": 0.25 if colour == MUTED else 0.5, "zorder": 1.5}
        axes.plot([x - dx[0], x + dx[1]], [y, y], **style)
        axes.plot([x, x], [y - dy[0], y + dy[1]], **style)
    for x, y, colour in zip(average[1:], worst[1:], colours[1:], strict=True):
        face = PAPER if colour == MUTED else colour
        axes.plot(x, y, "o", color=colour, markerfacecolor=face, markersize=5, zorder=3)
    axes.plot(average[0], worst[0], "D", color=INK, markersize=6, zorder=3)
    figures.heading(figure, title)
    dot = {"linestyle": "none", "marker": "o", "markersize": 5}
    marks = [
        {"color": INK, "linestyle": "none", "marker": "D", "markersize": 6, "label": "base"},
        {"color": COLOURS["helps"], "label": "helps the worst class"} | dot,
        {"color": COLOURS["hurts"], "label": "hurts it"} | dot,
        {"color": MUTED, "markerfacecolor": PAPER, "label": "no significant difference"} | dot,
        {"color": CLEAN, "linewidth": 1.2, "label": "Pareto front"},
    ]
    figures.legend(figure, marks, ncols=5, columnspacing=1.2, handletextpad=0.4)
    _draw_names(axes, rows, average, worst, colours)  # last: they are placed for the axes as laid out
    return figure


def _whisker(of: dict) -> tuple[float, float]:
    """From the middle of an interval to its ends."""
    if of["difference"] is None:
        return 0.0, 0.0
    low, high = of["difference_interval"]
    return of["difference"] - low, high - of["difference"]


def _limits(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Ends of an axis that holds all points, room around them, and the shorter whiskers."""
    span = max(np.ptp(values), 0.01)
    room = max(0.12 * span, min(np.quantile(errors, _WHISKER_SHARE), 0.5 * span))
    return max(values.min() - room, -0.02), min(values.max() + room, 1.02)


def _draw_front(axes, average, worst, front) -> None:
    """Steps through the points of the front: what lies below and to the left of them is beaten."""
    order = np.flatnonzero(front)[np.argsort(-average[front], kind="stable")]
    if order.size:
        low = axes.get_ylim()[0], axes.get_xlim()[0]
        x = [*np.repeat(average[order], 2), low[1]]
        y = [low[0], *np.repeat(worst[order], 2)]
        axes.plot(x, y, color=CLEAN, linewidth=1.2, zorder=1.2)
        axes.fill_between(x[::-1], y[::-1], low[0], color=GRID, alpha=0.35, linewidth=0, zorder=0.5)


def _named(rows: Sequence[dict]) -> list[int]:
    """Indices of the methods that are named."""
    number = len(rows)
    if number <= NAMED_CLASSES + 1:
        return list(range(number))
    rank = np.argsort([-row["worst"]["accuracy"] for row in rows], kind="stable")
    ends = [int(i) for pair in zip(rank, rank[::-1], strict=True) for i in pair]
    significant = [i for i in ends if rows[i]["verdict"] in COLOURS]
    front = [i for i in range(number) if rows[i]["pareto"]]
    return list(dict.fromkeys([0, *front, *significant, *ends[:EXTREMES]]))[:NAMED_CLASSES]


def _draw_names(axes, rows, average, worst, colours) -> None:
    """Names near their points, off all points and each other, with a line to the point."""
    named = _named(rows)
    textalloc.allocate(
        axes,
        average[named],
        worst[named],
        [figures.shorten(rows[i]["name"], 28) for i in named],
        x_scatter=average,
        y_scatter=worst,
        textsize=_FONT_SIZE,
        textcolor=[INK if colours[i] == MUTED else colours[i] for i in named],
        fontweight=["normal" if i else "bold" for i in named],
        bbox={"facecolor": PAPER, "alpha": 0.7, "linewidth": 0, "pad": 0.3},
        linecolor=CLEAN,
        linewidth=0.5,
        margin=0.006,
        max_distance=0.25,
        nbr_candidates=1000,
        zorder=4,
    )
