"""What the HTML pages of this package share: templates, and how they and the tables write figures."""

import csv
import io
import pathlib

import jinja2
import markupsafe

from jaxrobust import figures, files

NOTHING = "\N{EN DASH}"  # stands for a figure that is not defined


def render(template: str, page: dict) -> str:
    """A page of `templates/`, with everything that it shows.

    In templates the functions below are filters.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxrobust"),
        autoescape=True,  # class names and config values come from outside
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        (filter_.__name__, filter_)
        for filter_ in (percent, points, interval, ratio, probability, p_value, radius, norm, known, rounded)
    )
    return environment.get_template(template).render(page)


def figure(drawn) -> markupsafe.Markup:
    """A matplotlib figure as part of a page."""
    return markupsafe.Markup(figures.to_svg(drawn))


def write_figure(folder, stem: str, drawn) -> markupsafe.Markup:
    """Write a matplotlib figure to `<folder>/<stem>.svg` and `.png`; returns it as part of a page."""
    for file_format in ("svg", "png"):
        path = pathlib.Path(folder) / f"{stem}.{file_format}"
        files.write_atomically(path, figures.to_file(drawn, file_format))
    return figure(drawn)


def to_csv(header, rows) -> str:
    """A table as comma-separated values; None is empty."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.1f}"


def points(difference: float | None) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return NOTHING if difference is None else decimals(100 * difference, 1, "+")


def interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{decimals(100 * interval[0], 1)}, {decimals(100 * interval[1], 1)}]"


def decimals(value: float, places: int, sign: str = "") -> str:
    """A number rounded to so many decimals, never "-0"; with `sign` "+", that of a positive one too."""
    rounded = round(value, places) or 0.0
    return f"{rounded:{sign if rounded else ''}.{places}f}"


def counted(number: int, noun: str) -> str:
    """A number of things with a regular plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def probability(value: float) -> str:
    """Two decimals; small ones are not called impossible."""
    return f"{value:.2f}" if value >= 0.005 else "<0.01"


def p_value(value: float | None) -> str:
    """Three decimals; two digits of small ones."""
    if value is None:
        return NOTHING
    return f"{value:.3f}" if value >= 0.001 else f"{value:.2g}"


def radius(eps: float | None, norm=None) -> str:
    """A length in pixel units of [0, 1]; in 255ths for the maximum norm, as the field writes it."""
    if eps is None:
        return NOTHING
    return f"{eps * 255:.4g}/255" if str(norm).lower() == "linf" else f"{eps:.4g}"


def norm(norm) -> str:
    return NOTHING if norm is None else {"linf": "L∞", "l2": "L2", "l1": "L1"}.get(str(norm).lower(), str(norm))


def known(value) -> str:
    return NOTHING if value is None else str(value)


def rounded(value: float | None) -> str:
    """A large number, rounded."""
    return NOTHING if value is None else f"{value:,.0f}"
