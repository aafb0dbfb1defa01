"""What the HTML pages share: rendering a template, figures as part of a page, and tables as CSV."""

import csv
import io
import pathlib

import jinja2
import markupsafe

from jaxrobust import figures, files, formatting

FILTERS = (  # what templates write numbers with
    formatting.percent,
    formatting.points,
    formatting.interval,
    formatting.ratio,
    formatting.probability,
    formatting.p_value,
    formatting.radius,
    formatting.norm,
    formatting.known,
    formatting.rounded,
)


def render(template: str, page: dict) -> str:
    """The HTML of a page.

    Args:
        template: name of a file in `templates/`. It may use the functions in `FILTERS` as filters.
        page: the variables of the template, by name.

    Raises:
        jinja2.UndefinedError: the template uses a variable that is missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxrobust.reports"),
        autoescape=True,  # class names and config values come from outside
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update((write.__name__, write) for write in FILTERS)
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
