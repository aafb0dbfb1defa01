"""The figure of a comparison holds what it should at any number of classes, and its labels keep apart."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from drawn_texts import LONG_NAMES, collisions, drawn_texts

from jaxrobust import figures
from jaxrobust.figures import compare as figures_compare


def _differences(num_classes):
    rng = np.random.default_rng(num_classes)
    a, b = rng.random((2, num_classes))
    return figures_compare.Differences(a, b, b - a, b - a - 0.2, b - a + 0.2, np.abs(b - a) > 0.2)


def _figure(num_classes, classes=None):
    names = LONG_NAMES if num_classes == 10 else [f"class {i}" for i in range(num_classes)]
    return figures_compare.class_differences(names, classes or _differences(num_classes), _differences(2), "A and B")


@pytest.mark.parametrize("num_classes", [2, 10, 30, 31, 1000])
def test_figure_is_readable(num_classes):
    figure = _figure(num_classes)
    height, width, _ = figures.to_rgb(figure).shape
    assert collisions(figure) == []
    for text, box in drawn_texts(figure):
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, text
    ElementTree.fromstring(figures.to_svg(figure))


def test_classes_are_ordered_by_difference_above_average_and_worst():
    differences = _differences(10)
    accuracy, _ = _figure(10).axes
    order = np.argsort(differences.difference)
    shown = [label.get_text() for label in accuracy.get_yticklabels()]
    assert shown == [figures.shorten(LONG_NAMES[c]) for c in order] + ["average", "worst class"]


def test_many_classes_name_the_ends():
    differences = _differences(100)
    _, _, low, high = _figure(100).axes
    order = [f"class {c}" for c in np.argsort(differences.difference)]
    assert [label.get_text() for label in low.get_yticklabels()] == order[:10]
    assert [label.get_text() for label in high.get_yticklabels()] == order[-10:]


def test_significant_ones_alone_are_filled_and_in_colour():
    nothing = np.zeros(3)
    classes = figures_compare.Differences(
        nothing, nothing, np.array([-0.1, 0.0, 0.1]), nothing - 0.3, nothing + 0.3, np.array([True, False, True])
    )
    _, axes = _figure(3, classes).axes
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert faces[:3] == [figures_compare.WORSE, figures.PAPER, figures_compare.BETTER]


def test_absent_class_is_left_out():
    classes = _differences(3)
    classes.difference[1] = np.nan
    accuracy, _ = _figure(3, classes).axes
    assert "class 1" not in [label.get_text() for label in accuracy.get_yticklabels()]
