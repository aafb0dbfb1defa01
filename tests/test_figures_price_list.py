"""The figure of a price list: names keep apart and inside, and it shows base, verdicts and front."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from drawn_texts import collisions, drawn_texts

from jaxrobust import figures
from jaxrobust.comparison.differences import HELPS, HURTS, NO_DIFFERENCE, pareto_front
from jaxrobust.figures import price_list as figures_price_list


def _points(number, seed=0, spread=0.03):
    rng = np.random.default_rng(seed)
    worst = 0.2 + np.concatenate([[0], rng.normal(0.02, spread, number - 1)])
    average = 0.5 - np.concatenate([[0], rng.normal(0.01, spread / 3, number - 1)])
    errors = rng.uniform(0.005, 0.05, (2, number, 2))
    names = [f"a method of number {i}" if i % 3 else f"m{i}" for i in range(number)]
    front = pareto_front(np.stack([average, worst], 1))
    return [
        {
            "name": names[i],
            "average": _score(average[i], average[i] - 0.5, errors[0, i], i == 0),
            "worst": _score(worst[i], worst[i] - 0.2, errors[1, i], i == 0),
            "verdict": HELPS if worst[i] > 0.2 else HURTS if worst[i] < 0.2 else None,
            "pareto": bool(front[i]),
        }
        for i in range(number)
    ]


def _score(accuracy, difference, error, is_base):
    ends = [difference - error[0], difference + error[1]]
    return {"accuracy": accuracy} | dict(
        zip(("difference", "difference_interval"), (None, None) if is_base else (difference, ends), strict=True)
    )


@pytest.mark.parametrize(
    "number, seed, spread", [(2, 0, 0.03), (12, 1, 0.03), (25, 2, 0.03), (25, 3, 0.0), (60, 4, 0.02)]
)
def test_names_keep_apart_and_inside(number, seed, spread):
    points = _points(number, seed, spread)
    figure = figures_price_list.tradeoff(points, "title")
    height, width, _ = figures.to_rgb(figure).shape
    assert collisions(figure) == []
    for text, box in drawn_texts(figure):
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, text
    names = [row["name"] for row in points]
    named = {text for text, _ in drawn_texts(figure)} & set(names)
    assert len(named) == min(number, figures.NAMED_CLASSES) and names[0] in named
    ElementTree.fromstring(figures.to_svg(figure))


def test_names_stay_off_points_where_there_is_room():
    rows = _points(12, 1)
    figure = figures_price_list.tradeoff(rows)
    texts = drawn_texts(figure)
    points = [[row[name]["accuracy"] for name in ("average", "worst")] for row in rows]
    at = dict(zip([row["name"] for row in rows], figure.axes[0].transData.transform(points), strict=True))
    for text, box in texts:
        if text in at:
            corners = np.array([[box.x0, box.y0], [box.x1, box.y1]])
            assert not any(((point > corners[0]) & (point < corners[1])).all() for point in at.values())
            assert np.hypot(*(np.clip(at[text], *corners) - at[text])) < 0.3 * figure.dpi


def test_significant_methods_are_filled_and_the_base_is_a_diamond():
    verdicts = (None, HELPS, NO_DIFFERENCE, HURTS)
    points = [row | {"verdict": verdict} for row, verdict in zip(_points(4), verdicts, strict=True)]
    (axes,) = figures_price_list.tradeoff(points).axes
    marks = {line.get_marker(): [] for line in axes.lines}
    for line in axes.lines:
        marks[line.get_marker()].append(line.get_markerfacecolor())
    assert marks["o"] == [figures.BLUE, figures.PAPER, figures.VERMILION]
    assert len(marks["D"]) == 1
