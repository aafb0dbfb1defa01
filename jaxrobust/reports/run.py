"""Write the report of a run: `report.html`, one self-contained page on its robustness, class by class.

    jaxrobust report WORKDIR

Reads the files of a workdir (see `results`). For an unfinished run the page lists what is missing. Every figure is
computed from the counts per class. classes.json, written beside the page, holds what is known about the worst class and
about suites of attacks in machine-readable form (see `class_results.class_truth`).
"""

import dataclasses
import json
import pathlib

import numpy as np
from rich.console import Console

from jaxrobust import classwise, console, figures, files, reports
from jaxrobust.audit import results as audit_results
from jaxrobust.classwise import CONFIDENCE, METRICS, unequal
from jaxrobust.distributed import parallel
from jaxrobust.evaluation import signs
from jaxrobust.figures.classes import Curve, class_bars, class_curves, learning_curves
from jaxrobust.figures.matrix import confusion_matrix
from jaxrobust.formatting import NO_CLASS, counted, interval, norm, percent, percentage, radius, rounded
from jaxrobust.reports import audit as report_audit, findings as findings_lib, suites as report_suites
from jaxrobust.reports.findings import CAUTION, Finding, few, likely, p_of, tested, under
from jaxrobust.reports.tables import Column, Table
from jaxrobust.runs import class_summary, reading, results
from jaxrobust.runs.reading import Checkpoint, RunFiles, facts, field, headline, strongest
from jaxrobust.runs.results import Result

REPORT = "report.html"
_SPREADS = [metric for metric in METRICS if not metric.name.endswith("accuracy")]
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
    return reports.write_page(run.workdir, REPORT, _page(run, truth))


def _class_truth(run: RunFiles) -> dict:
    """Content of classes.json."""
    selected = run.selected()
    checkpoint = {"step": selected.step, "epoch": run.epoch(selected), "weights": selected.weights, "split": run.split}
    checkpoint["checksum"] = run.checksum(selected)
    return checkpoint | class_summary.class_truth(run.scores[selected], run.examples(selected))


def _notes(run: RunFiles) -> tuple[str, ...]:
    """What makes the results of the selected checkpoint doubtful, in sentences."""
    selected = run.selected()
    examples = results.read_examples(run.workdir, selected.step, selected.weights, run.split)
    return signs.of_examples(examples, reading.classes_of(run.scores[selected])[0])


def _page(run: RunFiles, truth: dict) -> dict:
    """The variables of the template."""
    selected = run.selected()
    scores = headline(run.scores[selected])
    attack = strongest(scores)
    score, tracked = scores[attack], _tracked(run, selected)
    compared = [
        {"name": name, "checkpoint": c, "epoch": run.epoch(c), "scores": headline(run.scores[c])}
        for c, name in run.compared().items()
    ]
    confusions = {a: run.confusion(selected, a) for a in dict.fromkeys(("clean", attack)) if a in scores}
    confusions = {a: matrix for a, matrix in confusions.items() if matrix is not None}
    audit = audit_results.AUDIT.read(run.workdir)
    if audit and not run.has(audit):
        console.warn(
            f"{run.workdir}: {audit_results.AUDIT} is of other weights, and left out; jaxrobust audit makes it"
        )
        audit = None
    config = sorted((name, json.dumps(value)) for name, value in files.flatten(run.config).items())
    return {
        "title": ", ".join(field(run.config, f"{part}.name", f"{part} unknown") for part in ("data", "model")),
        "facts": facts(run.config, run.origin),
        "run": run,
        "strongest": attack,
        "selected": selected,
        "selected_name": run.compared()[selected],
        "selected_epoch": run.epoch(selected),
        "checksum": run.checksum(selected),
        "findings": findings_lib.table(findings(score, truth) + (report_audit.findings(audit) if audit else [])),
        "compared": _compared_table(compared, attack, unequal(score.record["count"])),
        "classes": page_class_table(scores, attack),
        "images": _count_table(run.data) if run.data else None,
        "figure_table": _figure_table(compared, score),
        "attacks": _attack_table(run.scores[selected]),
        "config": Table([Column("field", 0), Column("value", 1)], config, sortable=False),
        "tracked": tracked,
        "truth": report_suites.page(truth),
        "score": score,
        "spreads": {_label(metric, score): metric.meaning for metric in _SPREADS},
        "notes": _notes(run),
        "missing": _missing(run, truth),
        "overfitted": min(
            (line["epoch"] for line in run.training if line.get("catastrophic_overfitting")), default=None
        ),
        "figures": _figures(run, selected, attack, confusions, tracked),
        "confusions": {a: _confusion_table(matrix, scores[a], a) for a, matrix in confusions.items()},
        "audit": audit and report_audit.page(audit),
        "seed": field(run.config, "train.seed"),
        "confidence": CONFIDENCE,
    }


def _label(metric: classwise.Metric, score: Result) -> str:
    return f"bottom-{score.bottom_k}" if metric.name == "bottom_k_mean" else metric.name


def _compared_table(compared: list[dict], attack: str, with_balanced: bool) -> Table:
    """The checkpoints, under the strongest attack and without attack."""

    def write(fraction: float | None) -> str:
        return "not scored" if fraction is None else percentage(fraction)

    columns = [
        Column("checkpoint", "name"),
        Column("weights", "checkpoint.weights"),
        Column("epoch", "epoch"),
        Column("step", "checkpoint.step", rounded),
        Column(f"average under {attack}", "score.accuracy", write, "score.interval"),
        Column("balanced", "score.balanced_accuracy", write, "score.balanced_interval"),
        Column("worst class", "score.worst_class_accuracy", write, "score.worst_interval"),
        Column("which", "score.worst_name"),
        Column("clean average", "clean.accuracy", write),
        Column("clean balanced", "clean.balanced_accuracy", write),
    ]
    columns = columns[:-2] if attack == "clean" else columns
    rows = [row | {"score": row["scores"].get(attack), "clean": row["scores"].get("clean")} for row in compared]
    return Table([column for column in columns if with_balanced or "balanced" not in column.name], rows)


def _figure_table(compared: list[dict], of: Result) -> Table:
    """Every figure of the checkpoints under every attack."""
    columns = [
        Column("checkpoint", lambda row: f"{row['name']}, {row['checkpoint'].weights}, epoch {row['epoch']}"),
        Column("attack", "attack"),
        Column("average", "score.accuracy", percent, "score.interval"),
        Column("balanced", "score.balanced_accuracy", percent, _balanced_ends),
        Column("worst class", "score.worst_class_accuracy", percent, "score.worst_interval"),
        Column("which", "score.worst_name"),
        *(Column(_label(metric, of), f"score.{metric.name}", metric.text) for metric in _SPREADS),
    ]
    return Table(columns, [row | {"attack": a, "score": s} for row in compared for a, s in row["scores"].items()])


def _count_table(data: dict) -> Table:
    """The images of each class in the data that the run was trained on, and what was not read."""
    skipped = data["skipped"] or [""] * len(data["classes"])
    columns = [Column("class", 0), Column("training", 1, rounded), Column("validation", 2, rounded)]
    columns += [Column("test", 3, rounded)] + [Column("files not read", 4)] * any(skipped)
    rows = zip(data["classes"], data["train"], data["validation"], data["test"], skipped, strict=True)
    caption = "Classes marked † may have images among the files that are not read, and look weak for the lack of them."
    return Table(columns, list(rows), caption=caption if any(skipped) else "")


def _balanced_ends(row: dict) -> tuple[float, float] | None:
    return row["score"].balanced_interval if unequal(row["score"].record["count"]) else None


def _attack_table(scores: dict[str, Result]) -> Table:
    """The settings of the attacks."""
    columns = [
        Column("attack", "attack"),
        Column("norm", "norm", norm),
        Column("radius", lambda of: radius(of["eps"], of["norm"])),
        Column("step size", lambda of: radius(of["step_size"], of["norm"])),
        *(Column(name, name) for name in ("steps", "restarts")),
        Column("examples", lambda of: sum(of["count"]), rounded),
        Column("seconds", "seconds"),
    ]
    unknown = dict.fromkeys(("norm", "eps", "step_size", "steps", "restarts", "seconds"))
    rows = [unknown | score.record | {"attack": attack} for attack, score in scores.items()]
    return Table(columns, rows, sortable=False)


def findings(score: Result, truth: dict) -> list[Finding]:
    """The main results under the strongest attack, and what each suite takes beyond PGD; `truth` is of classes.json."""
    what, worst = under(truth["strongest"]), truth["attacks"][truth["strongest"]]["worst"]
    found = [Finding(f"average {what}", percentage(score.accuracy), interval(score.interval))]
    if unequal(score.record["count"]):
        ends = interval(score.balanced_interval)
        found.append(Finding(f"balanced average {what}", percentage(score.balanced_accuracy), ends))
    if candidates := worst["candidates"]:
        ends = interval(score.worst_interval)
        found.append(Finding(f"worst class: {score.worst_name}", percentage(score.worst_class_accuracy), ends))
        found.append(Finding(f"best class: {score.best_name}", percentage(score.best_class_accuracy)))
        if len(score.by_accuracy) > 1:
            gap, p_value = score.corrected["gap"], score.equality.p_value
            note = f"{percent(score.gap)} as measured; {p_of(p_value, 'all classes equally robust')}"
            found.append(Finding("gap without chance", percent(gap.value), interval(gap[1:]), tested(p_value), note))
        number = f"{len(candidates)} of {np.count_nonzero(truth['count'])}"
        verdict = CAUTION if len(candidates) > 1 else ""
        found.append(
            Finding("classes that may be the worst", number, "", verdict, f"with probability: {likely(candidates, 5)}")
        )
        ends = interval(worst["interval"])
        found.append(Finding("accuracy of the worst class, whichever it is", percentage(worst["accuracy"]), ends))
    for suite, content in truth["suites"].items():
        found += _on_loss(suite, content["loss"], truth)
    return found


def _on_loss(suite: str, loss: dict | None, truth: dict) -> list[Finding]:
    rows = report_suites.loss_rows(truth, loss)
    if not rows:
        return []
    start, average, most = (
        f"lost from {loss['before']} to {suite}",
        loss["average"] | {"name": "average"},
        max(rows, key=lambda row: row["loss"]),
    )
    found = [
        Finding(
            f"{start}: {of['name']}",
            percent(of["loss"]),
            interval(of["interval"]),
            note=f"{percentage(of['before'])} to {percentage(of['after'])}",
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
    title = (
        f"accuracy by class on {scores[attack].images}; "
        f"{run.compared()[selected]} checkpoint (epoch {run.epoch(selected)}, {selected.weights} weights)"
    )
    by_rank = sorted(scores, key=lambda a: (a != attack, a != "clean", scores[a].accuracy or 0))
    for size in range(len(by_rank), 0, -1):
        shown = {a: score for a, score in scores.items() if a in by_rank[:size]}
        table = _terminal_table(shown, attack, left_out=len(by_rank) - size)
        if Console(width=MEASURED_WIDTH).measure(table).maximum <= width:
            break
    return title, table


def _terminal_table(shown: dict[str, Result], attack: str, left_out: int) -> Table:
    """The table of the page in fewer characters, without boundary errors; and sums."""

    def note(row, a: str) -> str:
        if row["of"][a][1] is None:
            return ""
        low, high = (round(100 * end) for end in row["of"][a][1])
        return f"[{low:2}, {high:2}]" + ("*" if row["name"] == shown[a].worst_name else " ")

    table = page_class_table(shown, attack)
    name, images, *columns, _ = table.columns
    columns = [
        column._replace(name=figures.shorten(column.name), note=lambda row, a=column.name: note(row, a))
        for column in columns
    ]
    sums = {"average": "accuracy", "balanced": "balanced_accuracy", "worst": "worst_class_accuracy", "gap": "gap"}
    if not any(unequal(score.record["count"]) for score in shown.values()):
        del sums["balanced"]
    below = [
        {"name": label, "count": "", "of": {a: (score.metrics[metric], None) for a, score in shown.items()}}
        for label, metric in sums.items()
    ]
    columns = [name._replace(write=figures.shorten), images._replace(write=str), *columns]
    more = f"; {counted(left_out, 'more attack')} in the report" if left_out else ""
    caption = f"95 % Wilson intervals; lowest under {attack} first; * worst class{more}"
    by = figures.shorten(attack)
    return dataclasses.replace(table, columns=columns, by=by, below=below, caption=caption)


def page_class_table(scores: dict[str, Result], attack: str) -> Table:
    """The accuracy of each class under each attack, lowest under `attack` first; and what the attack takes."""
    score, clean = scores[attack], scores.get("clean")
    count, boundary = score.record["count"], [None] * len(score.class_names)
    if clean is not None and attack != "clean" and clean.record["count"] == count:
        boundary = classwise.boundary_error(clean.record["correct"], score.record["correct"], count)
    columns = [
        Column("class", "name"),
        Column("images", "count", rounded),
        *(Column(a, lambda row, a=a: row["of"][a][0], percent, lambda row, a=a: row["of"][a][1]) for a in scores),
        Column("boundary error", "boundary_error", percent),
    ]
    rows = [
        {"name": name, "count": count[c], "boundary_error": boundary[c]}
        | {"of": {a: (s.class_accuracy[c], s.class_interval[c] if count[c] else None) for a, s in scores.items()}}
        for c, name in enumerate(score.class_names)
    ]
    return Table(columns, rows, by=attack)


def _confusion_table(matrix: np.ndarray, score: Result, attack: str) -> Table:
    """The most frequent mistakes, as shares of their true class; an image without a prediction is one as well."""
    total, names = score.count, (*score.class_names, NO_CLASS)
    matrix = np.column_stack([matrix, total - matrix.sum(1)])
    rate = matrix / np.maximum(total, 1)[:, None]
    np.fill_diagonal(rate, 0)
    largest = np.argsort(-rate, axis=None, kind="stable")[:LARGEST_CONFUSIONS]
    pairs = [divmod(int(i), len(names)) for i in largest]
    columns = [
        Column("true", lambda pair: names[pair[0]]),
        Column("predicted", lambda pair: names[pair[1]]),
        Column("share", lambda pair: float(rate[pair]), percentage),
        Column("examples", lambda pair: int(matrix[pair]), rounded, lambda pair: f"of {total[pair[0]]:,}"),
    ]
    return Table(columns, [pair for pair in pairs if rate[pair] > 0], title=f"Largest confusions, {attack}")


def _missing(run: RunFiles, truth: dict) -> dict:
    """What the template `missing.html` makes sentences of, beside the run."""
    changed = run.origin is not None and "remedy" in run.origin
    return {
        "changed": changed,
        "trained": not run.imported and not changed,  # in this workdir
        "steps": len({step for step, _ in run.scores}),
        "weights": {c.weights for c in run.scores},
        "unfinished": _unfinished(run.scores[run.selected()]),
        "without_loss": [suite for suite, content in truth["suites"].items() if content["loss"] is None],
        "last_epoch": max(run.epoch(c) for c in run.scores),
        "epochs": field(run.config, "train.epochs"),
        "absent": [name for name, count in zip(truth["classes"], truth["count"], strict=True) if not count],
    }


def _unfinished(scores: dict[str, Result]) -> dict[str, list[str]]:
    """Suites that have no result yet, with those of their members that have one."""
    suites = {}
    for attack in scores:
        suite, slash, member = attack.rpartition("/")
        if slash and suite not in scores:
            suites.setdefault(suite, []).append(member)
    return suites


def _figures(run: RunFiles, selected: Checkpoint, attack: str, confusions: dict, tracked: list[str]) -> dict[str, str]:
    """SVG by name: bars, learning, classes_<attack>, confusion_<attack>."""
    scores = headline(run.scores[selected])
    names = scores[attack].class_names
    bars = {a: (class_summary.floats(s.class_accuracy), *np.array(s.class_interval).T) for a, s in scores.items()}
    drawn = {"bars": class_bars(names, bars)}
    if len({c.step for c in run.scores}) > 1:
        marked = run.epoch(selected) if run.best_checkpoint() else None
        drawn["learning"] = learning_curves(_learning_curves(run), selected_epoch=marked)
        for a in tracked:
            history = run.over_training(a, selected.weights)
            accuracy = np.array([class_summary.floats(s.class_accuracy) for s in history])
            epochs = [s.record["epoch"] for s in history]
            drawn[f"classes_{a}"] = class_curves(epochs, accuracy, names, a, marked)
    for a, matrix in confusions.items():
        drawn[f"confusion_{a}"] = confusion_matrix(matrix, names, a, scores[a].count)
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
    """Write the report, and show the per-class table of the selected checkpoint and what makes it doubtful."""
    if not parallel.is_writer():
        return
    if not results.read(workdir):
        console.say(f"nothing is evaluated yet: jaxrobust evaluate --workdir {workdir}")
        return
    path = write_report(workdir)
    title, table = class_table(workdir, console.width())
    console.say(title)
    console.show(table)
    for note in _notes(RunFiles(workdir)):
        console.warn(note)
    console.say(f"report: {path}")
