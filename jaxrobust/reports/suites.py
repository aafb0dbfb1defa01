"""The sections of the report on the worst class and on suites of attacks, made from the content of classes.json."""

from jaxrobust import classwise, reports
from jaxrobust.classwise import unequal
from jaxrobust.figures import suites as figures_suites
from jaxrobust.formatting import percent, percentage, rounded
from jaxrobust.reports.findings import few, likely
from jaxrobust.reports.tables import Column, Table
from jaxrobust.runs import results


def page(truth: dict) -> dict:
    """The variables of the template `suites.html`, from the content of classes.json: tables, and figures as SVG."""
    of, suites = truth["attacks"][truth["strongest"]], {}
    for suite, content in truth["suites"].items():
        rows = loss_rows(truth, content["loss"])
        suites[suite] = {
            "before": rows and content["loss"]["before"],
            "stages": content["stages"] and _stage_table(content["stages"], unequal(truth["count"])),
            "losses": rows and _loss_table(rows, content["loss"]["before"], suite),
            "figure": rows and reports.figure(figures_suites.attack_losses(rows, content["loss"]["before"], suite)),
        }
    drawn = of["worst"]["candidates"] and reports.figure(
        figures_suites.worst_class(class_rows(truth, of), of["worst"]["interval"])
    )
    return {
        "attacks": list(truth["attacks"]),
        "worst_figure": drawn,
        "worst": drawn and _worst_table(truth),
        "suites": suites,
        "confidence": truth["confidence"],
    }


def class_rows(truth: dict, of: dict) -> list[dict]:
    """Of the classes that have images: name, accuracy, interval, whether and how probably it may be the worst."""
    candidates = classwise.worst_class(of["correct"], truth["count"], truth["confidence"]).candidates
    columns = {"name": truth["classes"], "accuracy": of["class_accuracy"], "interval": of["class_interval"]}
    columns |= {"probability": of["worst"]["probability"]}
    columns |= {"may_be_worst": [c in candidates for c in range(len(truth["count"]))]}
    return _records(columns, truth["count"])


def loss_rows(truth: dict, loss: dict | None) -> list[dict]:
    """One row per class that has images."""
    columns = loss and {"name": truth["classes"], "examples": truth["count"]} | loss["classes"]
    return _records(columns, truth["count"]) if loss else []


def _records(columns: dict, count: list[int]) -> list[dict]:
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [row for row, number in zip(rows, count, strict=True) if number]


def _balanced(shown: bool) -> list[Column]:
    return [Column("balanced", "balanced_accuracy", percent, "balanced_interval")] if shown else []


def _worst_table(truth: dict) -> Table:
    columns = [
        Column("attack", "attack"),
        Column("average", "accuracy", percent, "interval"),
        *_balanced(unequal(truth["count"])),
        Column("worst class", lambda row: few(row["worst"]["classes"], 3)),
        Column("its accuracy", "worst.accuracy", percent, "worst.interval"),
        Column("candidates and their probability to be the worst", lambda row: likely(row["worst"]["candidates"])),
    ]
    return Table(columns, [{"attack": attack} | of for attack, of in truth["attacks"].items()])


def _stage_table(stages: list[dict], with_balanced: bool) -> Table:
    columns = [
        Column("attack", "attack", note="settings"),
        Column("average after it", "accuracy", percent),
        *(column._replace(note="") for column in _balanced(with_balanced)),
        Column("worst class", lambda row: few(row["worst"], 3)),
        Column("its accuracy", "worst_class_accuracy", percent),
        Column("broken by it", "broken", rounded),
        Column("passes per image", "passes", rounded),
        Column("in full", "passes_in_full", rounded),
        Column("idle", "idle", percentage),
        Column("seconds", "seconds", rounded),
    ]
    sums = {name: [row[name] for row in stages] for name in ("broken", "passes_in_full")}
    sums = {name: None if None in values else sum(values) for name, values in sums.items()}
    together = stages[-1] | results.total_work(stages) | sums | {"attack": "together", "settings": ""}
    return Table(columns, stages, below=[together])


def _loss_table(rows: list[dict], before: str, suite: str) -> Table:
    columns = [
        Column("class", "name"),
        Column("images", "examples", rounded),
        Column(before, "before", percent),
        Column(suite, "after", percent),
        Column("loss", "loss", percent, "interval"),
        Column(f"broken by {suite} only", "lost"),
        Column(f"by {before} only", "gained"),
    ]
    return Table(columns, rows, by="loss", descending=True)
