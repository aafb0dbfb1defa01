"""The figures of strong attacks hold what they should at any number of classes, and their labels keep apart."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from drawn_texts import LONG_NAMES, collisions, drawn_texts
from matplotlib.colors import same_color

from jaxrobust import classwise, figures
from jaxrobust.figures import suites as figures_suites


def _names(num_classes):
    return LONG_NAMES if num_classes == 10 else [f"class {i}" for i in range(num_classes)]


def _counts(num_classes):
    rng = np.random.default_rng(num_classes)
    count = np.full(num_classes, 50)
    before = rng.integers(10, 51, num_classes)
    return count, before, before - rng.integers(0, 10, num_classes)


def _worst(num_classes):
    count, _, correct = _counts(num_classes)
    worst = classwise.worst_class(correct, count)
    bounds = classwise.wilson_interval(correct, count)
    probability = classwise.probability_worst(correct, count, draws=100)
    columns = (_names(num_classes), correct / count, np.stack(bounds, 1), probability)
    return _worst_figure(*columns, (worst.low, worst.high), worst.candidates)


def _worst_figure(names, accuracy, interval, probability, interval_of_worst, candidates):
    keys = ("name", "accuracy", "interval", "probability")
    rows = [dict(zip(keys, row, strict=True)) for row in zip(names, accuracy, interval, probability, strict=True)]
    rows = [row | {"may_be_worst": c in candidates} for c, row in enumerate(rows)]
    return figures_suites.worst_class(rows, interval_of_worst)


def _losses(num_classes):
    count, before, after = _counts(num_classes)
    bounds = classwise.paired_interval(np.zeros_like(count), before - after, count)
    return _loss_figure(_names(num_classes), before / count, after / count, np.stack(bounds, 1))


def _loss_figure(names, before, after, interval):
    keys = ("name", "before", "after", "loss", "interval")
    columns = (names, before, after, before - after, interval)
    rows = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    return figures_suites.attack_losses(rows, "pgd20", "standard")


@pytest.mark.parametrize("draw", [_worst, _losses])
@pytest.mark.parametrize("num_classes", [2, 10, 30, 31, 1000])
def test_figures_are_readable(draw, num_classes):
    figure = draw(num_classes)
    height, width, _ = figures.to_rgb(figure).shape
    assert collisions(figure) == []
    for text, box in drawn_texts(figure):
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, text
    ElementTree.fromstring(figures.to_svg(figure))


def _labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_classes_are_ordered_by_accuracy_under_the_stronger_attack():
    _, _, after = _counts(10)
    expected = [figures.shorten(LONG_NAMES[c]) for c in np.argsort(after, kind="stable")]
    assert _labels(_losses(10).axes[0]) == expected
    assert _labels(_worst(10).axes[0]) == expected


def test_many_classes_name_the_extremes():
    _, before, after = _counts(1000)
    _, lowest, largest = _losses(1000).axes
    order = np.argsort(after, kind="stable")
    assert _labels(lowest) == [f"class {c}" for c in order[:10]]
    loss = (before - after)[[int(name.split()[1]) for name in _labels(largest)]]
    assert (loss == 9).all() and (before - after).max() == 9
    assert _labels(_worst(1000).axes[0]) == [f"class {c}" for c in order[:20]]


def test_worst_classes_alone_are_in_colour():
    accuracies = np.array([0.4, 0.5, 0.9]), np.array([0.3, 0.2, 0.8])
    before, after = _loss_figure(["a", "b", "c"], *accuracies, np.full((3, 2), 0.5)).axes[0].collections[1:]
    in_colour = [same_color(colour, figures.WORST) for colour in before.get_edgecolor()]
    assert in_colour == [False, True, False]  # rows are b, a, c; a was the worst
    assert [same_color(colour, figures.WORST) for colour in after.get_facecolor()] == [True, False, False]


def test_only_candidates_are_in_colour():
    accuracy = np.array([0.5, 0.1, 0.9])
    interval = np.stack([accuracy] * 2, 1)
    figure = _worst_figure(["a", "b", "c"], accuracy, interval, [0.1, 0.9, 0.0], (0, 0.4), (1, 0))
    colours = [bar.get_facecolor() for bar in figure.axes[1].patches]
    assert [same_color(colour, figures.BLUE) for colour in colours] == [True, True, False]
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.90", "0.10"]
