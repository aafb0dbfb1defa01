"""How figures are written."""

import jinja2
import pytest
from matplotlib.figure import Figure

from jaxrobust import pages
from jaxrobust.pages import explain as explain_pages


def test_what_is_not_defined_is_a_dash():
    for write in (
        pages.percent,
        pages.points,
        pages.ratio,
        pages.p_value,
        pages.radius,
        pages.norm,
        pages.known,
        pages.rounded,
    ):
        assert write(None) == pages.NOTHING


@pytest.mark.parametrize(
    "write, value, expected",
    [
        (pages.percent, 0.1234, "12.3"),
        (pages.points, 0.05, "+5.0"),
        (pages.points, -0.0004, "0.0"),
        (pages.points, -0.0006, "-0.1"),
        (pages.interval, (-0.01, 0.2), "[-1.0, 20.0]"),
        (pages.interval, (-0.0004, 0.2), "[0.0, 20.0]"),
        (lambda value: pages.decimals(value, 2, "+"), -0.004, "0.00"),
        (lambda value: pages.decimals(value, 2, "+"), 0.006, "+0.01"),
        (explain_pages.share, -0.004, "0 %"),
        (lambda number: pages.counted(number, "run"), 1, "1 run"),
        (lambda number: pages.counted(number, "run"), 0, "0 runs"),
        (pages.probability, 0.123, "0.12"),
        (pages.probability, 0.0049, "<0.01"),
        (pages.rounded, 8101.96, "8,102"),
        (pages.p_value, 0.0346, "0.035"),
        (pages.p_value, 0.000346, "0.00035"),
        (pages.p_value, 1.24e-9, "1.2e-09"),
        (lambda eps: pages.radius(eps, "linf"), 8 / 255, "8/255"),
        (lambda eps: pages.radius(eps, "l2"), 0.5, "0.5"),
    ],
)
def test_figures_as_text(write, value, expected):
    assert write(value) == expected


def test_a_page_that_lacks_something_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        pages.render("compare.html", {})


def test_a_figure_is_written_and_put_on_the_page(tmp_path):
    drawn = Figure(figsize=(1, 1))
    svg = pages.write_figure(tmp_path, "name", drawn)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name.png", "name.svg"]
    assert (tmp_path / "name.png").read_bytes().startswith(b"\x89PNG")
    assert svg.__html__() == pages.figure(drawn) and svg.startswith("<svg")
