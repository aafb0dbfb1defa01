"""Rendering of templates, and figures on pages."""

import jinja2
import pytest
from matplotlib.figure import Figure

from jaxrobust import reports


def test_a_page_that_lacks_something_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        reports.render("compare.html", {})


def test_a_figure_is_written_and_put_on_the_page(tmp_path):
    drawn = Figure(figsize=(1, 1))
    svg = reports.write_figure(tmp_path, "name", drawn)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name.png", "name.svg"]
    assert (tmp_path / "name.png").read_bytes().startswith(b"\x89PNG")
    assert svg.__html__() == reports.figure(drawn) and svg.startswith("<svg")
