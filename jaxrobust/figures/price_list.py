"""The figure of a price list, average against worst class; see `figures` for the conventions.

figure = tradeoff(points, "standard")
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jaxrobust.figures import (
    BLUE,
    CLEAN,
    EXTREMES,
    GRID,
    INK,
    MUTED,
    NAMED_CLASSES,
    PAPER,
    VERMILION,
    shorten,
    styled,
    text_inches,
)

HELPS, HURTS = BLUE, VERMILION
_FONT_SIZE = 7.5
_LINE = 1.35 * _FONT_SIZE / 72  # inches
_MARK = 0.05  # inches from the middle of a mark to its edge
_TRIED = 30  # places for a label whose line to the point is looked at
_WHISKER_SHARE = 0.5  # of the whiskers that the axes hold in full; long ones are cut


class Points(NamedTuple):
    """One entry per method, the base first. Accuracies are fractions.

    Attributes:
        average, worst: accuracies.
        average_error, worst_error: distances to the (low, high) ends of the whiskers, [N][2]; nan without.
        verdict: 1 where the worst class is helped significantly, -1 where it is hurt, else 0.
        front: whether it is on the Pareto front.
    """

    names: Sequence[str]
    average: Sequence[float]
    worst: Sequence[float]
    average_error: Sequence[tuple[float, float]]
    worst_error: Sequence[tuple[float, float]]
    verdict: Sequence[int]
    front: Sequence[bool]


@styled
def tradeoff(points: Points, title: str = "") -> Figure:
    """Average against worst class, a point with whiskers per method, and a line through the Pareto front.

    Up to `NAMED_CLASSES` methods are all named; beyond, the base, those on the front, those that help or hurt, and
    those with the best and the weakest worst class.
    """
    average, worst = np.asarray(points.average, float), np.asarray(points.worst, float)
    errors = [np.nan_to_num(np.asarray(error, float)) for error in (points.average_error, points.worst_error)]
    width, height = 7.2, 5.4 + 0.06 * min(len(average), NAMED_CLASSES)
    left, right, bottom, top = 0.8, 0.3, 0.95, 0.4  # inches; labels are placed by hand, so the axes must not move
    box = np.array([width - left - right, height - bottom - top])
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, bottom / height, *(box / (width, height))))
    limits = [_limits(values, error) for values, error in zip((average, worst), errors, strict=True)]
    axes.set(xlim=limits[0], ylim=limits[1], xlabel="average accuracy", ylabel="accuracy of the worst class")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.axvline(average[0], color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.axhline(worst[0], color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    _draw_front(axes, average, worst, np.asarray(points.front, bool))
    colours = [{1: HELPS, -1: HURTS}.get(verdict, MUTED) for verdict in points.verdict]
    for x, y, dx, dy, colour in zip(average, worst, *errors, colours, strict=True):
        style = {"color": colour, "linewidth": 0.8, "alpha": 0.25 if colour == MUTED else 0.5, "zorder": 1.5}
        axes.plot([x - dx[0], x + dx[1]], [y, y], **style)
        axes.plot([x, x], [y - dy[0], y + dy[1]], **style)
    for x, y, colour, verdict in zip(average[1:], worst[1:], colours[1:], points.verdict[1:], strict=True):
        axes.plot(x, y, "o", color=colour, markerfacecolor=colour if verdict else PAPER, markersize=5, zorder=3)
    axes.plot(average[0], worst[0], "D", color=INK, markersize=6, zorder=3)

    named = _named(points)
    low, span = np.array([limit[0] for limit in limits]), np.array([limit[1] - limit[0] for limit in limits])
    at = (np.stack([average, worst], 1) - low) / span * box  # inches from the corner of the axes
    names = [shorten(points.names[i], 28) for i in named]
    sizes = np.array([[text_inches(name, _FONT_SIZE) + 0.03, _LINE] for name in names])
    sizes[0, 0] *= 1.15  # bold
    for i, name, place in zip(named, names, place_labels(at, named, sizes, box), strict=True):
        middle = (place[:2] + place[2:]) / 2
        nearest = np.clip(at[i], place[:2], place[2:])
        gaps = np.hypot(*(np.clip(at, place[:2], place[2:]) - at).T)
        if gaps[i] > 2.2 * _MARK or (gaps < gaps[i]).any():  # it could be taken for the name of another point
            ends = np.stack([at[i], nearest]) / box
            axes.plot(*ends.T, transform=axes.transAxes, color=CLEAN, linewidth=0.5, zorder=1)
        style = {"ha": "center", "va": "center", "fontsize": _FONT_SIZE, "color": colours[i]}
        text = axes.text(*(middle / box), name, transform=axes.transAxes, zorder=4, **style)
        text.set_bbox({"facecolor": PAPER, "alpha": 0.7, "linewidth": 0, "pad": 0.3})
        if i == 0:
            text.set_fontweight("bold")
        if not points.verdict[i]:
            text.set_color(INK)
    figure.suptitle(title, x=0.01, y=1 - 0.08 / height, va="top", ha="left", fontsize=10)
    dot = {"linestyle": "none", "marker": "o", "markersize": 5}
    handles = [
        Line2D([], [], color=INK, linestyle="none", marker="D", markersize=6, label="base"),
        Line2D([], [], color=HELPS, label="helps the worst class", **dot),
        Line2D([], [], color=HURTS, label="hurts it", **dot),
        Line2D([], [], color=MUTED, markerfacecolor=PAPER, label="no significant difference", **dot),
        Line2D([], [], color=CLEAN, linewidth=1.2, label="Pareto front"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=5, fontsize=8, columnspacing=1.2, handletextpad=0.4)
    return figure


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


def _named(points: Points) -> list[int]:
    """Indices of the methods that are named."""
    number = len(points.names)
    if number <= NAMED_CLASSES + 1:
        return list(range(number))
    rank = np.argsort(-np.asarray(points.worst, float), kind="stable")
    ends = [int(i) for pair in zip(rank, rank[::-1], strict=True) for i in pair]
    significant = [i for i in ends if points.verdict[i]]
    front = [i for i in range(number) if points.front[i]]
    return list(dict.fromkeys([0, *front, *significant, *ends[:EXTREMES]]))[:NAMED_CLASSES]


def place_labels(at: np.ndarray, named: Sequence[int], sizes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Where labels go: near their points, off all points and each other, inside of the box.

    One by one, the most crowded points first, each at the nearest of many places around its point that is free;
    two more rounds let each move to a better one when all others are placed. Where none is free, the least covered.

    Args:
        at: the points, [N, 2], inches.
        named: indices of the K points that have a label.
        sizes: width and height of each label, [K, 2], inches.
        box: width and height of the area.

    Returns:
        Boxes (left, bottom, right, top), [K, 4], inches.
    """
    distance = np.hypot(*(at[:, None] - at).transpose(2, 0, 1))
    crowding = (distance < 0.8).sum(1)
    order = sorted(range(len(named)), key=lambda k: -crowding[named[k]])
    marks = np.concatenate([at - _MARK, at + _MARK], 1)
    placed = np.full((len(named), 4), np.nan)
    for k in [*order, *order, *order]:
        candidates = _candidates(at[named[k]], sizes[k])
        others = np.delete(placed, k, 0)
        others = others[~np.isnan(others[:, 0])]
        outside = np.maximum(0, np.concatenate([-candidates[:, :2], candidates[:, 2:] - box], 1)).sum(1)
        covered = _overlap(candidates, marks).sum(1) + 3 * _overlap(candidates, _grown(others)).sum(1)
        nearest = np.clip(at[named[k]], candidates[:, :2], candidates[:, 2:])
        length = np.hypot(*(nearest - at[named[k]]).T)
        cost = 100 * (outside + 10 * covered) + length
        best = np.argsort(cost, kind="stable")[:_TRIED]
        cost[best] += [0.12 * _crossings(at[named[k]], nearest[m], np.delete(marks, named[k], 0), others) for m in best]
        placed[k] = candidates[best[np.argmin(cost[best])]]
    return placed


def _candidates(point: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Boxes of that size around a point, [M, 4]."""
    angles = np.arange(24) * math.pi / 12
    boxes = []
    for gap, angle in itertools.product((0.075, 0.14, 0.22, 0.32, 0.45, 0.6, 0.8, 1.0, 1.25), angles):
        direction = np.array([math.cos(angle), math.sin(angle)])
        # The middle lies where the box's edge is `gap` away from the point, along either axis at least.
        middle = point + direction * gap + np.clip(direction * 1.6, -1, 1) * size / 2
        boxes.append(np.concatenate([middle - size / 2, middle + size / 2]))
    return np.array(boxes)


def _grown(boxes: np.ndarray) -> np.ndarray:
    return boxes + np.array([-1, -1, 1, 1]) * 0.012


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Areas that boxes [M, 4] and [K, 4] share, [M, K]."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    return np.maximum(sides, 0).prod(2)


def _crossings(start: np.ndarray, end: np.ndarray, marks: np.ndarray, labels: np.ndarray) -> int:
    """How many marks and labels a line runs through."""
    line = start + np.linspace(0, 1, 12)[:, None] * (end - start)
    boxes = np.concatenate([marks, labels])
    inside = (line[:, None] > boxes[:, :2]).all(2) & (line[:, None] < boxes[:, 2:]).all(2)
    return int(inside.any(0).sum())
