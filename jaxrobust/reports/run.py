"""Write the report of a run: `report.html`, one self-contained page on its robustness, class by class.

    jaxrobust report WORKDIR

Reads the files of a workdir (see `results`). For an unfinished run the page lists what is missing. Every figure is
computed from the counts per class. classes.json, written beside the page, holds what is known about the worst class and
about suites of attacks in machine-readable form (see `class_results.class_truth`).
"""

import json
import pathlib

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxrobust import classwise, console, figures, files, formatting, reports
from jaxrobust.audit import results as audit_results
from jaxrobust.classwise import CONFIDENCE, METRICS, unequal
from jaxrobust.distributed import parallel
from jaxrobust.figures.classes import Curve, class_bars, class_curves, learning_curves
from jaxrobust.figures.matrix import confusion_matrix
from jaxrobust.reports import audit as report_audit
from jaxrobust.reports import suites as report_suites
from jaxrobust.reports.findings import CAUTION, Finding, few, p_of, tested, under
from jaxrobust.runs import class_summary, reading, results
from jaxrobust.runs.reading import Checkpoint, RunFiles, facts, field, headline, strongest
from jaxrobust.runs.results import Result

REPORT = "report.html"
MEASURED_WIDTH = 10_000  # characters: more than any table takes
LARGEST_CONFUSIONS = 12


def write_report(workdir) -> pathlib.Path:
    """Write `report.html` and `classes.json` in a workdir, replacing earlier ones as a whole; returns the page's path.

    Raises:
        UserError: the folder is not a workdir, has no results, or has a file that cannot be read.
    """
    run = RunFiles(workdir)
    truth = _class_truth(run)
    results.CLASSES.write(run.workdir, truth)
    path = run.workdir / REPORT
    files.write_atomically(path, reports.render("report.html", _page(run, truth)))
    return path


def _class_truth(run: RunFiles) -> dict:
    """Content of classes.json."""
    selected = run.selected()
    checkpoint = {"step": selected.step, "epoch": run.epoch(selected), "weights": selected.weights, "split": run.split}
    examples = results.read_examples(run.workdir, selected.step, selected.weights, run.split)
    return checkpoint | class_summary.class_truth(run.scores[selected], examples)


def _page(run: RunFiles, truth: dict) -> dict:
    """The variables of the template."""
    selected = run.selected()
    scores = headline(run.scores[selected])
    attack = strongest(scores)
    names = scores[attack].class_names
    compared = run.compared()
    confusions = {a: run.confusion(selected, a) for a in dict.fromkeys(("clean", attack)) if a in scores}
    audit = audit_results.AUDIT.read(run.workdir)
    confusions = {a: matrix for a, matrix in confusions.items() if matrix is not None}
    return {
        "title": ", ".join(field(run.config, f"{part}.name", f"{part} unknown") for part in ("data", "model")),
        "facts": facts(run.config, run.origin),
        "split": run.split,
        "strongest": attack,
        "unequal": unequal(scores[attack].record["count"]),
        "selected": selected,
        "selected_name": compared[selected],
        "selected_epoch": run.epoch(selected),
        "compared": [
            {
                "name": name,
                "checkpoint": c,
                "epoch": run.epoch(c),
                "score": run.scores[c].get(attack),
                "scores": headline(run.scores[c]),
            }
            for c, name in compared.items()
        ],
        "scores": scores,
        "stages": run.scores[selected],
        "findings": findings(scores[attack], truth) + (report_audit.findings(audit) if audit else []),
        "tracked": _tracked(run, selected),
        "truth": report_suites.page(truth),
        "score": scores[attack],
        "spreads": [metric for metric in METRICS if not metric.name.endswith("accuracy")],
        "class_rows": class_rows(scores, attack),
        "missing": missing(run, truth),
        "overfitted": [line["epoch"] for line in run.training if line.get("catastrophic_overfitting")],
        "figures": _figures(run, selected, attack, confusions),
        "confusions": {a: largest_confusions(matrix, names) for a, matrix in confusions.items()},
        "validation_examples": run.validation_examples,
        "audit": audit and report_audit.page(audit),
        "best": run.best,
        "seed": field(run.config, "train.seed"),
        "config": sorted((name, json.dumps(value)) for name, value in files.flatten(run.config).items()),
        "confidence": CONFIDENCE,
    }


def findings(score: Result, truth: dict) -> list[Finding]:
    """The main results under the strongest attack, and what each suite takes beyond PGD.

    Args:
        truth: content of classes.json.
    """
    what, worst = under(truth["strongest"]), truth["attacks"][truth["strongest"]]["worst"]
    found = [Finding(f"average {what}", _percent(score.accuracy), formatting.interval(score.interval))]
    if unequal(score.record["count"]):
        ends = formatting.interval(score.balanced_interval)
        found.append(Finding(f"balanced average {what}", _percent(score.balanced_accuracy), ends))
    if candidates := worst["candidates"]:
        ends = formatting.interval(score.worst_interval)
        found.append(Finding(f"worst class: {score.worst_name}", _percent(score.worst_class_accuracy), ends))
        found.append(Finding(f"best class: {score.best_name}", _percent(score.best_class_accuracy)))
        if len(score.by_accuracy) > 1:
            gap, p_value = score.corrected["gap"], score.equality.p_value
            note = f"{formatting.percent(score.gap)} as measured; {p_of(p_value, 'all classes equally robust')}"
            ends = formatting.interval(gap[1:])
            found.append(Finding("gap without chance", formatting.percent(gap.value), ends, tested(p_value), note))
        likely = few(f"{c['name']} ({formatting.probability(c['probability'])})" for c in candidates)
        number = f"{len(candidates)} of {np.count_nonzero(truth['count'])}"
        verdict = CAUTION if len(candidates) > 1 else ""
        found.append(Finding("classes that may be the worst", number, "", verdict, f"with probability: {likely}"))
        ends = formatting.interval(worst["interval"])
        found.append(Finding("accuracy of the worst class, whichever it is", _percent(worst["accuracy"]), ends))
    for suite, content in truth["suites"].items():
        found += _on_loss(suite, content["loss"], truth)
    return found


def _percent(fraction: float) -> str:
    return f"{formatting.percent(fraction)} %"


def _on_loss(suite: str, loss: dict | None, truth: dict) -> list[Finding]:
    rows = report_suites.loss_rows(truth, loss)
    if not rows:
        return []
    start, average, most = f"lost from {loss['before']} to {suite}", loss["average"] | {"name": "average"}, rows[0]
    found = [
        Finding(
            f"{start}: {of['name']}",
            formatting.percent(of["loss"]),
            formatting.interval(of["interval"]),
            note=f"{_percent(of['before'])} to {_percent(of['after'])}",
        )
        for of in (average, most)
        if of is average or of["loss"] > 0
    ]
    note = f"{few(loss['worst_before'], 3)} to {few(loss['worst_after'], 3)}"
    verdict = "changes" if loss["worst_changed"] else ""
    return [*found, Finding(f"worst class, {loss['before']} to {suite}", verdict=verdict, note=note)]


def class_table(workdir, width: int = 160) -> tuple[str, Table]:
    """The title and the per-class table of the selected checkpoint, for the terminal.

    Args:
        width: of the terminal, in characters. Attacks that do not fit are left out, starting with the weakest.

    Raises:
        UserError: as `write_report`.
    """
    run = RunFiles(workdir)
    selected = run.selected()
    scores = headline(run.scores[selected])
    attack = strongest(scores)
    why = run.compared()[selected]
    # Returned separately, because rich wraps a table's own title at the width of the table.
    title = (
        f"accuracy by class on {scores[attack].images}; "
        f"{why} checkpoint (epoch {run.epoch(selected)}, {selected.weights} weights)"
    )
    by_rank = sorted(scores, key=lambda a: (a != attack, a != "clean", scores[a].accuracy or 0))
    for size in range(len(by_rank), 0, -1):
        shown = {a: score for a, score in scores.items() if a in by_rank[:size]}
        table = _table(shown, attack, left_out=len(by_rank) - size)
        if Console(width=MEASURED_WIDTH).measure(table).maximum <= width:
            break
    return title, table


def _table(scores: dict[str, Result], attack: str, left_out: int) -> Table:
    more = f"; {left_out} more {'attack' if left_out == 1 else 'attacks'} in the report" if left_out else ""
    table = Table(caption=f"95 % Wilson intervals; lowest under {attack} first; * worst class{more}")
    table.add_column("class", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    for name in scores:
        table.add_column(Text(figures.shorten(name)), justify="right", no_wrap=True)
    worst = [score.worst_name for score in scores.values()]
    for row in class_rows(scores, attack):
        cells = [_table_cell(*cell, row["name"] == name) for cell, name in zip(row["cells"], worst, strict=True)]
        # Text and not str: a class may be called [b].
        table.add_row(Text(figures.shorten(row["name"])), str(row["count"]), *map(Text, cells))
    table.add_section()
    rows = [("average", "accuracy"), ("worst", "worst_class_accuracy"), ("gap", "gap")]
    if any(unequal(score.record["count"]) for score in scores.values()):
        rows.insert(1, ("balanced", "balanced_accuracy"))
    for label, figure in rows:
        values = [score.metrics[figure] for score in scores.values()]
        table.add_row(
            label, "", *(formatting.NOTHING if value is None else f"{100 * value:.1f}{' ' * 10}" for value in values)
        )
    return table


def _table_cell(accuracy: float | None, interval: tuple[float, float], is_worst: bool) -> str:
    if accuracy is None:
        return formatting.NOTHING
    low, high = interval
    return f"{'*' if is_worst else ' '}{100 * accuracy:5.1f} [{100 * low:3.0f},{100 * high:3.0f}]"


def class_rows(scores: dict[str, Result], attack: str) -> list[dict]:
    """The rows of the per-class table: lowest accuracy under `attack` first, classes without examples last."""
    score = scores[attack]
    clean = scores.get("clean")
    same_examples = clean is not None and attack != "clean" and clean.record["count"] == score.record["count"]
    boundary = [None] * len(score.class_names)
    if same_examples:
        boundary = classwise.boundary_error(clean.record["correct"], score.record["correct"], score.record["count"])
    accuracy = score.class_accuracy
    order = sorted(range(len(accuracy)), key=lambda c: (accuracy[c] is None, accuracy[c] or 0))
    return [
        {
            "name": score.class_names[c],
            "count": score.record["count"][c],
            "boundary_error": boundary[c],
            "cells": [(s.class_accuracy[c], s.class_interval[c]) for s in scores.values()],
        }
        for c in order
    ]


def largest_confusions(matrix: np.ndarray, names: list[str]) -> list[dict]:
    """The most frequent mistakes as shares of their true class: dicts with true, predicted, rate, count, of."""
    total = matrix.sum(1)
    rate = matrix / np.maximum(total, 1)[:, None]
    np.fill_diagonal(rate, 0)
    order = np.argsort(-rate, axis=None, kind="stable")[:LARGEST_CONFUSIONS]
    pairs = [divmod(int(i), len(names)) for i in order]
    return [
        {
            "true": names[t],
            "predicted": names[p],
            "rate": float(rate[t, p]),
            "count": int(matrix[t, p]),
            "of": int(total[t]),
        }
        for t, p in pairs
        if rate[t, p] > 0
    ]


def missing(run: RunFiles, truth: dict) -> list[str]:
    """What is missing from an unfinished or partly scored run, one sentence for each gap.

    Args:
        truth: content of classes.json.
    """
    selected, best = run.selected(), run.best
    scores = run.scores[selected]
    absent = [name for name, n in zip(*reading.classes_of(scores), strict=True) if n == 0]
    some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    epochs = field(run.config, "train.epochs")
    last_epoch = max(run.epoch(c) for c in run.scores)
    num_steps = len({step for step, _ in run.scores})
    # In both cases the training did not happen in this workdir.
    imported, changed = run.imported, run.origin is not None and "remedy" in run.origin
    trained = not imported and not changed
    checks = [
        (not run.config, "The config (config.json) is missing."),
        (
            imported,
            "The weights are imported: their training is unknown here, and the training settings in the config, "
            "including the number of epochs, do not apply.",
        ),
        (
            changed,
            "The head was changed after training; the training itself is documented in the original workdir. Settings "
            "were chosen on the validation split, so validation figures are slightly better than on new images.",
        ),
        (
            run.split != "test",
            "The test split has not been scored: every figure on this page is from the validation split, "
            "which is also used to select the best checkpoint.",
        ),
        (
            best is None and trained,
            "No checkpoint was selected (no best.json): the page shows the last one, whatever its score.",
        ),
        (
            best is not None and run.best_checkpoint() is None,
            f"The best checkpoint (step {best and best['step']}, {best and best['weights']} weights) "
            f"has not been scored on {run.split} yet: the page shows the last one.",
        ),
        (
            not run.validation_examples and not imported,
            "No validation split has been scored, so no checkpoint can be selected without looking at test.",
        ),
        (num_steps == 1 and trained, "Only one checkpoint has been scored, so there are no curves over training."),
        (all(c.weights != "averaged" for c in run.scores) and trained, "There are no averaged weights."),
        (not run.training and trained, "There is no training log (training.jsonl)."),
        *(
            (
                True,
                f"The suite {suite} is not finished: {', '.join(members)} so far, shown among the settings alone.",
            )
            for suite, members in _unfinished(scores).items()
        ),
        *(
            (True, f"No loss from PGD to {suite}: no plain PGD was scored, or the verdicts per image are missing.")
            for suite, content in truth["suites"].items()
            if content["loss"] is None
        ),
        (set(headline(scores)) == {"clean"}, "No attack has been scored: the page has no robustness figures."),
        ("clean" not in scores, "Clean accuracy has not been scored, so there is no boundary error."),
        (
            epochs is not None and last_epoch < epochs,
            f"The run is unfinished, or scored only in part: the last scored epoch is {last_epoch} of {epochs}.",
        ),
        (bool(absent), f"Classes without examples in the {run.split} split, left out of every figure: {some}."),
    ]
    return [sentence for holds, sentence in checks if holds]


def _unfinished(scores: dict[str, Result]) -> dict[str, list[str]]:
    """Suites that have no result yet, with those of their members that have one."""
    suites = {}
    for attack in scores:
        suite, slash, member = attack.rpartition("/")
        if slash and suite not in scores:
            suites.setdefault(suite, []).append(member)
    return suites


def _figures(run: RunFiles, selected: Checkpoint, attack: str, confusions: dict[str, np.ndarray]) -> dict[str, str]:
    """SVG by name: bars, learning, classes_<attack>, confusion_<attack>."""
    scores = headline(run.scores[selected])
    names = scores[attack].class_names
    bars = {a: (class_summary.floats(s.class_accuracy), *np.array(s.class_interval).T) for a, s in scores.items()}
    drawn = {"bars": class_bars(names, bars)}
    if len({c.step for c in run.scores}) > 1:
        marked = run.epoch(selected) if run.best_checkpoint() else None
        drawn["learning"] = learning_curves(_learning_curves(run), selected_epoch=marked)
        for a in _tracked(run, selected):
            history = run.over_training(a, selected.weights)
            accuracy = np.array([class_summary.floats(s.class_accuracy) for s in history])
            epochs = [s.record["epoch"] for s in history]
            drawn[f"classes_{a}"] = class_curves(epochs, accuracy, names, a, marked)
    for a, matrix in confusions.items():
        drawn[f"confusion_{a}"] = confusion_matrix(matrix, names, a)
    return {name: reports.figure(figure) for name, figure in drawn.items()}


def _tracked(run: RunFiles, selected: Checkpoint) -> list[str]:
    """Attacks shown class by class over training: the strongest one scored at several checkpoints, and clean."""
    scores = run.scores[selected]
    scores = {a: s for a, s in headline(scores).items() if len(run.over_training(a, selected.weights)) > 1}
    return list(dict.fromkeys(a for a in (strongest(scores), "clean") if a in scores)) if scores else []


def _learning_curves(run: RunFiles) -> dict[str, dict[str, Curve]]:
    """Curves by attack and kind of weights, and those of the training batches if they were logged."""
    curves = {}
    for attack in dict.fromkeys(attack for scores in run.scores.values() for attack in headline(scores)):
        for weights in ("averaged", "raw"):
            history = run.over_training(attack, weights)
            if history:
                curves.setdefault(attack, {})[weights] = Curve(
                    epoch=[s.record["epoch"] for s in history],
                    average=[s.accuracy for s in history],
                    worst=[s.worst_class_accuracy for s in history],
                )
    logged = [(line["epoch"], class_summary.floats(line.get("train_class_accuracy") or [])) for line in run.training]
    logged = [(epoch, accuracy[~np.isnan(accuracy)]) for epoch, accuracy in logged]
    logged = [(epoch, accuracy.mean(), accuracy.min()) for epoch, accuracy in logged if accuracy.size]
    if logged:
        curves["training attack"] = {"training": Curve(*zip(*logged, strict=True))}
    return curves


def finish(workdir) -> None:
    """Write the report and show the per-class table of the selected checkpoint."""
    if not parallel.is_writer():
        return
    if not results.read(workdir):
        console.say(f"nothing is evaluated yet: jaxrobust evaluate --workdir {workdir}")
        return
    path = write_report(workdir)
    title, table = class_table(workdir, console.width())
    console.say(title)
    console.show(table)
    console.say(f"report: {path}")
