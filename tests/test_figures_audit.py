"""Figures of audits show every class, what is unknown, and nothing beyond what they are given."""

import re

import numpy as np
import pytest

from jaxrobust.figures import NAMED_CLASSES, to_svg
from jaxrobust.figures.audit import class_to_class, security_curves


def texts(figure) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", to_svg(figure))


def test_matrix_tells_unknown_from_none():
    share = np.array([[np.nan, 0.0, 0.004], [0.5, np.nan, np.nan], [0.25, 1.0, np.nan]])
    shown = texts(class_to_class(share, [0.1, 0.2, 0.3], [0.6, 0.7, 0.8], ["a", "b", "c"]))
    assert shown.count("?") == 1 and shown.count("·") == 3
    for cell in ("0", "&lt;1", "50", "25", "100", "60", "70", "80", "any other", "mean"):
        assert cell in shown
    assert shown.count("a") == shown.count("b") == 2, "a row and a column"


def test_too_many_classes_are_refused():
    many = NAMED_CLASSES + 1
    with pytest.raises(ValueError, match=str(many)):
        class_to_class(np.zeros((many, many)), np.zeros(many), np.zeros(many), ["x"] * many)


@pytest.mark.parametrize("num_classes", [2, 10, 29, 60])
def test_curves_name_the_classes(num_classes):
    radii = np.array([0.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    middle = np.linspace(2.0, 20.0, num_classes)
    accuracy = (middle > radii[:, None]) * np.linspace(1.0, 0.5, 6)[:, None]
    accuracy[:, -1] = np.nan  # no examples
    average = np.nanmean(accuracy, 1)
    half = {"class_radius": [None, *middle[1:] / 255], "class_interval": [[one / 255, None] for one in middle - 1]}
    curve = {"radii": radii / 255, "class_accuracy": accuracy, "accuracy": average, "half": half}
    names = [f"class{c}" for c in range(num_classes)]
    shown = texts(security_curves(curve | {"interval": np.stack([average] * 2, 1)}, names, 8 / 255, "linf"))
    named = set(names) & set(shown)
    assert names[-1] not in named
    if num_classes <= NAMED_CLASSES:
        assert named == set(names[:-1])
    else:
        assert 0 < len(named) < 10
    assert "threat radius" in shown and "64" not in shown and "60" not in shown, "all are 0 from 32 on"
