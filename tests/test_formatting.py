"""How numbers are written."""

import pytest

from jaxrobust import formatting
from jaxrobust.reports import explain as explain_pages


def test_what_is_not_defined_is_a_dash():
    for write in (
        formatting.percent,
        formatting.points,
        formatting.ratio,
        formatting.p_value,
        formatting.radius,
        formatting.norm,
        formatting.known,
        formatting.rounded,
    ):
        assert write(None) == formatting.NOTHING


@pytest.mark.parametrize(
    "write, value, expected",
    [
        (formatting.percent, 0.1234, "12.3"),
        (formatting.points, 0.05, "+5.0"),
        (formatting.points, -0.0004, "0.0"),
        (formatting.points, -0.0006, "-0.1"),
        (formatting.interval, (-0.01, 0.2), "[-1.0, 20.0]"),
        (formatting.interval, (-0.0004, 0.2), "[0.0, 20.0]"),
        (lambda value: formatting.decimals(value, 2, "+"), -0.004, "0.00"),
        (lambda value: formatting.decimals(value, 2, "+"), 0.006, "+0.01"),
        (explain_pages.share, -0.004, "0 %"),
        (lambda number: formatting.counted(number, "run"), 1, "1 run"),
        (lambda number: formatting.counted(number, "run"), 0, "0 runs"),
        (formatting.probability, 0.123, "0.12"),
        (formatting.probability, 0.0049, "<0.01"),
        (formatting.rounded, 8101.96, "8,102"),
        (formatting.p_value, 0.0346, "0.035"),
        (formatting.p_value, 0.000346, "0.00035"),
        (formatting.p_value, 1.24e-9, "1.2e-09"),
        (lambda eps: formatting.radius(eps, "linf"), 8 / 255, "8/255"),
        (lambda eps: formatting.radius(eps, "l2"), 0.5, "0.5"),
    ],
)
def test_figures_as_text(write, value, expected):
    assert write(value) == expected
