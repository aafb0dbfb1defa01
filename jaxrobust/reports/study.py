"""Output of a study: study.html with its findings, figures and tables."""

import pathlib

from jaxrobust import files, reports
from jaxrobust.figures import study as figures_study
from jaxrobust.reports import explain as explain_pages, findings as findings_lib, price_list as price_list_pages
from jaxrobust.reports.study_findings import findings
from jaxrobust.reports.study_tables import csv_tables, page_tables

PAGE = "study.html"
DATA = "study.json"


def write(folder, answer: dict) -> pathlib.Path:
    """Write study.html, study.json, a CSV of each table and each figure as SVG and PNG; returns the page's path."""
    folder = pathlib.Path(folder)
    drawn, written = [], []
    for of in answer["data"]:
        # By the axis and not by how many data sets are done, so that no file of an earlier summary stays behind.
        stem = f"-{of['name']}" if of["name"] else ""
        figures = dict(_figures(of, answer["attack"]))
        drawn.append({name: reports.write_figure(folder, f"{name}{stem}", figure) for name, figure in figures.items()})
        csvs = csv_tables(of)
        for name, table in csvs.items():
            files.write_atomically(folder / f"{name}{stem}.csv", table)
        written += [*(f"{name}{stem}.svg" for name in figures), *(f"{name}{stem}.csv" for name in csvs)]
    remedies = ""
    if (found := answer["price_list"]) and "error" not in found:
        (folder / "price-list").mkdir(exist_ok=True)
        price_list_pages.write(folder / "price-list", found)
        remedies = reports.figure(price_list_pages.draw(found))
    files.write_atomically(folder / DATA, files.to_json(answer))
    page = answer | {
        "figures": drawn,
        "tables": [page_tables(of, answer["attack"]) for of in answer["data"]],
        "files": written,
        "findings": findings_lib.table(findings(answer)),
        "failed_runs": [f"{run['run']}: {run['error']}" for run in answer["failed"]],
        "remedies_figure": remedies,
    }
    return reports.write_page(folder, PAGE, page)


def _figures(of: dict, attack: str):
    """(name, figure) of one data set."""
    for natural, name in ((False, "robust"), (True, "natural")):
        if rows := [row for row in of["settings"] if row["natural"] == natural]:
            accuracy = [row["clean" if natural else "attacked"]["class_accuracy"] for row in rows]
            title = "natural training, clean" if natural else f"adversarial training, under {attack}"
            labels, title = [row["label"] for row in rows], f"accuracy of each class, {title}"
            yield f"classes-{name}", figures_study.class_table(accuracy, labels, of["classes"], title)
    if of["agreement"]:
        names = of["agreement"]["settings"]
        yield "correlations", figures_study.correlations(of["agreement"]["correlations"], names, "rank correlation")
    if of["components"] and "missing" not in of["components"]:
        yield "variance", figures_study.shares(of["components"]["share"], of["components"]["intervals"])
    if of["explanations"]:
        rows = [row for row in of["explanations"]["probes"] if not row["built_in"] and row["correlation"] is not None]
        if ranking := explain_pages.draw_ranking(of["explanations"], rows, predicted=True):
            yield "ranking", ranking
    epochs = {
        "natural" if kind["natural"] else "adversarial": (kind["epochs"], kind["gap"], kind["gap_interval"])
        for kind in of["epochs"]
    }
    radii = None
    if of["radius"]:
        rows = of["radius"]["figures"]["gap"]["by_radius"]
        unit = of["radius"]["unit"]
        means, intervals = ([row[key] for row in rows] for key in ("mean", "interval"))
        radii = [row["radius"] / unit["length"] for row in rows], means, intervals, unit["name"]
    if epochs or radii:
        yield "gap", figures_study.discrepancy(epochs, radii)
    if of["interventions"]:
        yield "interventions", figures_study.changes(of["interventions"], f"accuracy under {attack}")
