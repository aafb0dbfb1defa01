"""Output of a study: study.html with its findings, figures and tables."""

import pathlib

from jaxrobust import files, reports
from jaxrobust.figures import study as figures_study
from jaxrobust.reports import explain as explain_pages
from jaxrobust.reports import price_list as price_list_pages
from jaxrobust.reports.study_findings import findings
from jaxrobust.reports.study_tables import tables

PAGE = "study.html"
DATA = "study.json"


def write(folder, answer: dict) -> pathlib.Path:
    """Write study.html, study.json, a CSV of each table and each figure as SVG and PNG; returns the page's path."""
    folder = pathlib.Path(folder)
    drawn, written = {}, []
    for number, of in enumerate(answer["data"]):
        # By the axis and not by how many data sets are done, so that no file of an earlier summary stays behind.
        stem = f"-{of['name']}" if of["name"] else ""
        drawn[number] = {}
        for name, figure in _figures(of, answer["attack"]):
            drawn[number][name] = reports.write_figure(folder, f"{name}{stem}", figure)
            written.append(f"{name}{stem}.svg")
        for name, table in tables(of):
            files.write_atomically(folder / f"{name}{stem}.csv", table)
            written.append(f"{name}{stem}.csv")
    remedies = None
    if (found := answer["price_list"]) and "error" not in found:
        remedies = folder / "price-list"
        remedies.mkdir(exist_ok=True)
        price_list_pages.write(remedies, found)
    files.write_atomically(folder / DATA, files.to_json(answer))
    page = answer | {
        "figures": drawn,
        "files": written,
        "findings": findings(answer),
        "write": explain_pages.WRITE,
        "remedies_figure": reports.figure(price_list_pages.draw(found)) if remedies else "",
    }
    path = folder / PAGE
    files.write_atomically(path, reports.render(PAGE, page))
    return path


def _figures(of: dict, attack: str):
    """(name, figure) of one data set."""
    for natural, name in ((False, "robust"), (True, "natural")):
        rows = [row for row in of["settings"] if row["natural"] == natural]
        if rows:
            accuracy = [row["clean" if natural else "attacked"]["class_accuracy"] for row in rows]
            title = "natural training, clean" if natural else f"adversarial training, under {attack}"
            title = f"accuracy of each class, {title}"
            yield (
                f"classes-{name}",
                figures_study.class_table(accuracy, [row["label"] for row in rows], of["classes"], title),
            )
    if of["agreement"]:
        names = of["agreement"]["settings"]
        yield "correlations", figures_study.correlations(of["agreement"]["correlations"], names, "rank correlation")
    if of["components"] and "missing" not in of["components"]:
        yield "variance", figures_study.shares(of["components"]["share"], of["components"]["intervals"])
    if of["explanations"]:
        rows = [row for row in of["explanations"]["probes"] if not row["built_in"] and row["correlation"] is not None]
        if ranking := explain_pages.draw_ranking(of["explanations"], rows, predicted=True):
            yield "ranking", ranking
    epochs = {"natural" if kind["natural"] else "adversarial": (kind["epochs"], kind["gap"]) for kind in of["epochs"]}
    radii = None
    if of["radius"]:
        rows = of["radius"]["figures"]["gap"]["by_radius"]
        unit = of["radius"]["unit"]
        radii = [row["radius"] / unit["length"] for row in rows], [row["mean"] for row in rows], unit["name"]
    if epochs or radii:
        yield "gap", figures_study.discrepancy(epochs, radii)
    if of["interventions"]:
        yield "interventions", figures_study.changes(of["interventions"], f"accuracy under {attack}")
