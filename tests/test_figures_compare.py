"""The figure of a comparison holds what it should at any number of classes, and its labels keep apart."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from drawn_texts import LONG_NAMES, collisions, drawn_texts

from jaxrobust import figures
from jaxrobust.figures import compare as figures_compare


def _row(name, a, b):
    difference = b - a
    interval = [difference - 0.2, difference + 0.2]
    row = {"name": name, "a": a, "b": b, "difference": difference}
    return row | {"interval": interval, "significant": abs(difference) > 0.2}


def _classes(num_classes):
    names = LONG_NAMES if num_classes == 10 else [f"class {i}" for i in range(num_classes)]
    return [_row(name, *np.random.default_rng(i).random(2)) for i, name in enumerate(names)]


def _figure(classes):
    worst = _row("", 0.1, 0.2) | {side: {"accuracy": 0.1} for side in "ab"}
    of = {"classes": classes, "average": _row("", 0.5, 0.4), "worst": worst}
    return figures_compare.class_differences(of, "A and B")


@pytest.mark.parametrize("num_classes", [2, 10, 30, 31, 1000])
def test_figure_is_readable(num_classes):
    figure = _figure(_classes(num_classes))
    height, width, _ = figures.to_rgb(figure).shape
    assert collisions(figure) == []
    for text, box in drawn_texts(figure):
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, text
    ElementTree.fromstring(figures.to_svg(figure))


def test_classes_are_ordered_by_difference_above_average_and_worst():
    classes = _classes(10)
    accuracy, _ = _figure(classes).axes
    order = [figures.shorten(row["name"]) for row in sorted(classes, key=lambda row: row["difference"])]
    shown = [label.get_text() for label in accuracy.get_yticklabels()]
    assert shown == [*order, "average", "worst class"]


def test_many_classes_name_the_ends():
    classes = _classes(100)
    _, _, low, high = _figure(classes).axes
    order = [row["name"] for row in sorted(classes, key=lambda row: row["difference"])]
    assert [label.get_text() for label in low.get_yticklabels()] == order[:10]
    assert [label.get_text() for label in high.get_yticklabels()] == order[-10:]


def test_significant_ones_alone_are_filled_and_in_colour():
    _, axes = _figure([_row("a", 0.5, 0.2), _row("b", 0.5, 0.5), _row("c", 0.5, 0.8)]).axes
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert faces[:3] == [figures_compare.WORSE, figures.PAPER, figures_compare.BETTER]


def test_absent_class_is_left_out():
    classes = _classes(3)
    classes[1] |= dict.fromkeys(("a", "b", "difference"))
    accuracy, _ = _figure(classes).axes
    assert "class 1" not in [label.get_text() for label in accuracy.get_yticklabels()]
