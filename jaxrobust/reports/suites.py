"""The sections of the report on the worst class and on suites of attacks, made from the content of classes.json."""

import markupsafe
import numpy as np

from jaxrobust import classwise, reports
from jaxrobust.figures import suites as figures_suites
from jaxrobust.runs import class_summary, results


def page(truth: dict) -> dict:
    """The variables of the template `suites.html`: the content of classes.json, sorted rows, and figures as SVG."""
    of = truth["attacks"][truth["strongest"]]
    shown = {}
    for suite, content in truth["suites"].items():
        shown[suite] = content | {
            "total": results.total_work(content["stages"]),
            "broken": _sum(content["stages"], "broken"),
            "passes_in_full": _sum(content["stages"], "passes_in_full"),
            "rows": loss_rows(truth, content["loss"]),
            "figure": _loss_figure(truth["classes"], content["loss"], suite),
        }
    return truth | {"worst": of["worst"], "worst_figure": _worst_figure(truth, of), "suites": shown}


def loss_rows(truth: dict, loss: dict | None) -> list[dict]:
    """One row per class that has examples, the largest loss first."""
    if loss is None:
        return []
    columns = {"name": truth["classes"], "examples": truth["count"]} | loss["classes"]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return sorted((row for row in rows if row["examples"]), key=lambda row: -row["loss"])


def _sum(rows: list[dict], name: str):
    """The sum of a column; None if any entry is None."""
    values = [row[name] for row in rows]
    return None if None in values else sum(values)


def _worst_figure(truth: dict, of: dict) -> markupsafe.Markup | None:
    candidates = classwise.worst_class(of["correct"], truth["count"], truth["confidence"]).candidates
    if not candidates:
        return None
    figure = figures_suites.worst_class(
        truth["classes"],
        class_summary.floats(of["class_accuracy"]),
        *np.array(of["class_interval"]).T,
        of["worst"]["interval"],
        of["worst"]["probability"],
        candidates,
    )
    return reports.figure(figure)


def _loss_figure(names, loss: dict | None, suite: str) -> markupsafe.Markup | None:
    if loss is None or not loss["worst_after"]:
        return None
    columns = loss["classes"]
    values = [class_summary.floats(columns[name]) for name in ("before", "after", "loss")]
    losses = figures_suites.Losses(*values, *np.array(columns["interval"]).T)
    return reports.figure(figures_suites.attack_losses(names, losses, loss["before"], suite))
