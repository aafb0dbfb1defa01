"""The figure of a price list: names keep apart and inside, and it shows base, verdicts and front."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from test_figures import _collisions, _drawn_texts

from jaxrobust import figures
from jaxrobust.comparison.differences import pareto_front
from jaxrobust.figures import price_list as figures_price_list


def _points(number, seed=0, spread=0.03):
    rng = np.random.default_rng(seed)
    worst = 0.2 + np.concatenate([[0], rng.normal(0.02, spread, number - 1)])
    average = 0.5 - np.concatenate([[0], rng.normal(0.01, spread / 3, number - 1)])
    errors = rng.uniform(0.005, 0.05, (2, number, 2))
    errors[:, 0] = np.nan
    names = [f"a method of number {i}" if i % 3 else f"m{i}" for i in range(number)]
    front = pareto_front(np.stack([average, worst], 1))
    return figures_price_list.Points(names, average, worst, *errors, np.sign(worst - 0.2).astype(int), front)


@pytest.mark.parametrize(
    "number, seed, spread", [(2, 0, 0.03), (12, 1, 0.03), (25, 2, 0.03), (25, 3, 0.0), (60, 4, 0.02)]
)
def test_names_keep_apart_and_inside(number, seed, spread):
    points = _points(number, seed, spread)
    figure = figures_price_list.tradeoff(points, "title")
    height, width, _ = figures.to_rgb(figure).shape
    assert _collisions(figure) == []
    for text, box in _drawn_texts(figure):
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, text
    named = {text for text, _ in _drawn_texts(figure)} & set(points.names)
    assert len(named) == min(number, figures.NAMED_CLASSES) and points.names[0] in named
    ElementTree.fromstring(figures.to_svg(figure))


def test_labels_stay_off_points_where_there_is_room():
    at = np.array([[1.0, 1.0], [1.1, 1.05], [3.0, 3.0]])
    boxes = figures_price_list.place_labels(at, [0, 1, 2], np.full((3, 2), [0.6, 0.15]), np.array([4.0, 4.0]))
    for box in boxes:
        assert not ((at > box[:2]) & (at < box[2:])).all(1).any()
    near = np.hypot(*(np.clip(at[2], boxes[2, :2], boxes[2, 2:]) - at[2]))
    assert near < 0.15


def test_significant_methods_are_filled_and_the_base_is_a_diamond():
    points = _points(4)._replace(verdict=[0, 1, 0, -1])
    (axes,) = figures_price_list.tradeoff(points).axes
    marks = {line.get_marker(): [] for line in axes.lines}
    for line in axes.lines:
        marks[line.get_marker()].append(line.get_markerfacecolor())
    assert marks["o"] == [figures_price_list.HELPS, figures.PAPER, figures_price_list.HURTS]
    assert len(marks["D"]) == 1
