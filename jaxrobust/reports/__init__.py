"""What the HTML pages share: rendering a template, figures as part of a page, and tables (see tables.py)."""

import pathlib

import jinja2
import markupsafe

from jaxrobust import figures, files, formatting
from jaxrobust.reports.findings import few, under
from jaxrobust.reports.tables import to_csv


def render(template: str, page: dict) -> str:
    """The HTML of a page.

    Args:
        template: name of a file in `templates/`. It may use the functions of `formatting` as filters.
        page: the variables of the template, by name.

    Raises:
        jinja2.UndefinedError: the template uses a variable that is missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxrobust.reports"),
        autoescape=True,  # class names and config values come from outside
        finalize=lambda value: formatting.clean(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: write for name, write in vars(formatting).items() if callable(write)}
    environment.filters |= {"under": under, "few": few}
    return environment.get_template(template).render(page)


def write_page(folder, template: str, page: dict) -> pathlib.Path:
    """Write the page of a template, under the template's name, to a folder; returns its path."""
    path = pathlib.Path(folder) / template
    files.write_atomically(path, render(template, page))
    return path


def figure(drawn) -> markupsafe.Markup:
    """A matplotlib figure as part of a page."""
    return markupsafe.Markup(figures.to_svg(drawn))


def write_figure(folder, stem: str, drawn) -> markupsafe.Markup:
    """Write a matplotlib figure to `<folder>/<stem>.svg` and `.png`; returns it as part of a page."""
    for file_format in ("svg", "png"):
        path = pathlib.Path(folder) / f"{stem}.{file_format}"
        files.write_atomically(path, figures.to_file(drawn, file_format))
    return figure(drawn)
