"""`report.html`: what a run's robustness is worth, class by class, on one page that needs nothing else.

    python -m jaxrobust.report WORKDIR

Reads the files of a workdir (see `results`) and states what is missing from an unfinished run. Every figure
is derived here from the counts per class, by the same functions that wrote them.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable
from typing import NamedTuple

import markupsafe
import numpy as np
from rich.table import Table
from rich.text import Text

from jaxrobust import classwise, figures, files, pages, report_audit, results
from jaxrobust.errors import UserError

REPORT = "report.html"
CONFIDENCE = 0.95
LARGEST_CONFUSIONS = 12


class Checkpoint(NamedTuple):
    """One set of weights of a run."""

    step: int
    weights: str  # "raw" or "averaged"


@dataclasses.dataclass(frozen=True)
class Score:
    """One attack on one checkpoint: a line of results.jsonl, and what follows from its counts.

    Intervals are (low, high) fractions.
    """

    record: dict
    summary: classwise.Summary
    interval: tuple[float, float]  # of the example-weighted accuracy
    class_interval: tuple[tuple[float, float], ...]  # [C]

    @classmethod
    def of(cls, record: dict) -> "Score":
        correct, count = np.array(record["correct"]), np.array(record["count"])
        low, high = classwise.wilson_interval(correct, count, CONFIDENCE)
        total_low, total_high = classwise.wilson_interval([correct.sum()], [count.sum()], CONFIDENCE)
        return cls(
            record=record,
            summary=classwise.summary(correct, count),
            interval=(float(total_low[0]), float(total_high[0])),
            class_interval=tuple(zip(low.tolist(), high.tolist(), strict=True)),
        )

    @property
    def class_names(self) -> list[str]:
        return self.record["classes"]

    @property
    def worst_interval(self) -> tuple[float, float] | None:
        worst = self.summary.worst_class
        return None if worst is None else self.class_interval[worst]

    @property
    def worst_name(self) -> str | None:
        worst = self.summary.worst_class
        return None if worst is None else self.class_names[worst]

    @property
    def best_name(self) -> str | None:
        best = self.summary.best_class
        return None if best is None else self.class_names[best]

    def rivals_of_worst(self) -> list[str]:
        """Names of the classes whose interval overlaps that of the worst class, lowest accuracy first."""
        if self.worst_interval is None:
            return []
        accuracy = self.summary.class_accuracy
        rivals = [
            c
            for c, (low, _) in enumerate(self.class_interval)
            if accuracy[c] is not None and c != self.summary.worst_class and low <= self.worst_interval[1]
        ]
        return [self.class_names[c] for c in sorted(rivals, key=lambda c: accuracy[c])]


class Run:
    """The files of a workdir, read once.

    Attributes:
        scores: {(step, weights): {attack: Score}} of `split`, in order of step.
        split: the split asked for, or else test where it was scored, and validation where not.
        config: content of config.json; {} where there is none.
        best: content of best.json; None where there is none.
        origin: content of weights.json; None but for imported weights.
        training: lines of training.jsonl.
        validation_examples: size of the scored validation split; 0 without one.

    Raises:
        UserError: the folder is no workdir, holds no results (of the split), or a file in it cannot be read.
    """

    def __init__(self, workdir, split: str | None = None):
        self.workdir = pathlib.Path(workdir)
        if not self.workdir.is_dir():
            raise UserError(f"{workdir}: no such folder; give the workdir of a run")
        records = results.read(self.workdir)
        self.training = files.read_records(self.workdir / results.TRAINING)
        self.config = files.read_json(self.workdir / "config.json") or {}
        self.best = files.read_json(self.workdir / results.BEST)
        self.origin = files.read_json(self.workdir / results.ORIGIN)
        if not records:
            raise UserError(f"{workdir}: no {results.RESULTS} with results yet; run --mode evaluate first")
        scored = {record["split"] for record in records}
        self.split = split or ("test" if "test" in scored else "validation")
        if self.split not in scored:
            raise UserError(
                f"{workdir}: no results of the {split} split, only of {', '.join(sorted(scored))}; name one of those"
            )
        self.scores = _scores(record for record in records if record["split"] == self.split)
        validation = [record for record in records if record["split"] == "validation"]
        self.validation_examples = sum(validation[-1]["count"]) if validation else 0

    @property
    def last_step(self) -> int:
        return max(step for step, _ in self.scores)

    def best_checkpoint(self) -> Checkpoint | None:
        """The checkpoint that best.json names, if it is scored."""
        best = Checkpoint(self.best["step"], self.best["weights"]) if self.best else None
        return best if best in self.scores else None

    def selected(self) -> Checkpoint:
        """The best checkpoint, else the last one; averaged weights before raw ones."""
        return self.best_checkpoint() or max(self.scores, key=lambda c: (c.step, c.weights == "averaged"))

    def compared(self) -> dict[Checkpoint, str]:
        """The checkpoints of the headline and what they are called: the best, and the last with all its weights."""
        best = self.best_checkpoint()
        names = {best: ["best"]} if best else {}
        for checkpoint in self.scores:
            if checkpoint.step == self.last_step:
                names.setdefault(checkpoint, []).append("last")
        return {checkpoint: " and ".join(name) for checkpoint, name in names.items()}

    def epoch(self, checkpoint: Checkpoint):
        """Epochs of training completed at a checkpoint."""
        return next(iter(self.scores[checkpoint].values())).record["epoch"]

    def over_training(self, attack: str, weights: str) -> list[Score]:
        """The scores under one attack of all checkpoints with these weights, in order of step."""
        return [scores[attack] for c, scores in self.scores.items() if c.weights == weights and attack in scores]

    def confusion(self, checkpoint: Checkpoint, attack: str) -> np.ndarray | None:
        """Counts [C, C] of predictions under an attack, from the results or else from the examples file."""
        record = self.scores[checkpoint][attack].record
        if record.get("confusion") is not None:
            return np.array(record["confusion"])
        examples = results.read_examples(self.workdir, checkpoint.step, checkpoint.weights, self.split)
        prediction = examples.get(f"{attack}_prediction")
        if prediction is None:
            return None
        return classwise.confusion(examples["labels"], prediction, len(record["classes"]))


def strongest(scores: dict[str, Score]) -> str:
    """The attack with the lowest accuracy; "clean" if there is no other."""
    attacked = [attack for attack in scores if attack != "clean"] or list(scores)
    return min(attacked, key=lambda attack: scores[attack].summary.accuracy or 0)


def write_report(workdir) -> pathlib.Path:
    """Write `report.html` in a workdir, replacing an earlier one as a whole, and return its path.

    Raises:
        UserError: the folder is no workdir, holds no results, or a file in it cannot be read.
    """
    run = Run(workdir)
    path = run.workdir / REPORT
    files.write_atomically(path, pages.render("report.html", _page(run)))
    return path


def _page(run: Run) -> dict:
    """Everything that the template shows."""
    selected = run.selected()
    scores = run.scores[selected]
    attack = strongest(scores)
    names = scores[attack].class_names
    compared = run.compared()
    confusions = {a: run.confusion(selected, a) for a in dict.fromkeys(("clean", attack)) if a in scores}
    confusions = {a: matrix for a, matrix in confusions.items() if matrix is not None}
    return {
        "title": ", ".join(field(run.config, f"{part}.name", f"{part} unknown") for part in ("data", "model")),
        "facts": facts(run.config, run.origin),
        "split": run.split,
        "strongest": attack,
        "selected": selected,
        "selected_name": compared[selected],
        "selected_epoch": run.epoch(selected),
        "compared": [
            {
                "name": name,
                "checkpoint": c,
                "epoch": run.epoch(c),
                "score": run.scores[c].get(attack),
                "scores": run.scores[c],
            }
            for c, name in compared.items()
        ],
        "scores": scores,
        "score": scores[attack],
        "class_rows": class_rows(scores, attack),
        "missing": missing(run),
        "overfitted": [line["epoch"] for line in run.training if line.get("catastrophic_overfitting")],
        "figures": _figures(run, selected, attack, confusions),
        "confusions": {a: largest_confusions(matrix, names) for a, matrix in confusions.items()},
        "validation_examples": run.validation_examples,
        "audit": report_audit.page(run.workdir),
        "best": run.best,
        "seed": field(run.config, "train.seed"),
        "config": sorted((name, json.dumps(value)) for name, value in files.flatten(run.config).items()),
        "confidence": CONFIDENCE,
    }


def class_table(workdir) -> tuple[str, Table]:
    """The per-class table of the selected checkpoint, for the terminal, and its title.

    Raises:
        UserError: as `write_report`.
    """
    run = Run(workdir)
    selected = run.selected()
    scores = run.scores[selected]
    attack = strongest(scores)
    why = run.compared()[selected]
    # Not the table's own title, which is folded at its width.
    title = (
        f"accuracy by class on {run.split}, {why} checkpoint (epoch {run.epoch(selected)}, {selected.weights} weights)"
    )
    table = Table(caption=f"95 % Wilson intervals; lowest under {attack} first; * worst class")
    table.add_column("class")
    table.add_column("images", justify="right")
    for name in scores:
        table.add_column(name, justify="right")
    worst = [score.worst_name for score in scores.values()]
    for row in class_rows(scores, attack):
        cells = [_table_cell(*cell, row["name"] == name) for cell, name in zip(row["cells"], worst, strict=True)]
        # Text and not str: a class may be called [b].
        table.add_row(Text(row["name"]), str(row["count"]), *map(Text, cells))
    table.add_section()
    for label, field in (("average", "accuracy"), ("worst class", "worst_class_accuracy"), ("gap", "gap")):
        values = [getattr(score.summary, field) for score in scores.values()]
        table.add_row(
            label, "", *(pages.NOTHING if value is None else f"{100 * value:.1f}{' ' * 10}" for value in values)
        )
    return title, table


def _table_cell(accuracy: float | None, interval: tuple[float, float], is_worst: bool) -> str:
    if accuracy is None:
        return pages.NOTHING
    low, high = interval
    return f"{'*' if is_worst else ' '}{100 * accuracy:5.1f} [{100 * low:3.0f},{100 * high:3.0f}]"


def class_rows(scores: dict[str, Score], attack: str) -> list[dict]:
    """The per-class table: lowest accuracy under `attack` first, classes without examples last."""
    score = scores[attack]
    clean = scores.get("clean")
    same_examples = clean is not None and attack != "clean" and clean.record["count"] == score.record["count"]
    boundary = [None] * len(score.class_names)
    if same_examples:
        boundary = classwise.boundary_error(clean.record["correct"], score.record["correct"], score.record["count"])
    accuracy = score.summary.class_accuracy
    order = sorted(range(len(accuracy)), key=lambda c: (accuracy[c] is None, accuracy[c] or 0))
    return [
        {
            "name": score.class_names[c],
            "count": score.record["count"][c],
            "boundary_error": boundary[c],
            "cells": [(s.summary.class_accuracy[c], s.class_interval[c]) for s in scores.values()],
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


def missing(run: Run) -> list[str]:
    """What an unfinished or partial run lacks, one sentence each."""
    selected, best = run.selected(), run.best
    scores = run.scores[selected]
    absent = [name for name, n in zip(*_classes(scores), strict=True) if n == 0]
    some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    epochs = field(run.config, "train.epochs")
    last_epoch = max(run.epoch(c) for c in run.scores)
    num_steps = len({step for step, _ in run.scores})
    imported = run.origin is not None
    checks = [
        (not run.config, "The config (config.json) is missing."),
        (
            imported,
            "The weights are imported: nothing is known here of their training, and what the config says of it, "
            "the number of epochs included, does not count.",
        ),
        (
            run.split != "test",
            "The test split has not been scored: every figure on this page is of the validation split, "
            "which is also what a best checkpoint is selected by.",
        ),
        (
            best is None and not imported,
            "No checkpoint was selected (no best.json): the page shows the last one, "
            "chosen by its place and not by its score.",
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
        (num_steps == 1 and not imported, "Only one checkpoint has been scored, so there are no curves over training."),
        (all(c.weights != "averaged" for c in run.scores) and not imported, "There are no averaged weights."),
        (not run.training and not imported, "There is no training log (training.jsonl)."),
        (set(scores) == {"clean"}, "No attack has been scored: the page holds no robustness figure."),
        ("clean" not in scores, "Clean accuracy has not been scored, so there is no boundary error."),
        (
            epochs is not None and last_epoch < epochs,
            f"The run is unfinished, or scored only in part: the last scored epoch is {last_epoch} of {epochs}.",
        ),
        (bool(absent), f"Classes without examples in the {run.split} split, left out of every figure: {some}."),
    ]
    return [sentence for holds, sentence in checks if holds]


def _scores(records: Iterable[dict]) -> dict[Checkpoint, dict[str, Score]]:
    """By checkpoint in order of step, raw weights before averaged ones, then by attack in the order of the file."""
    by_checkpoint = {}
    for record in records:
        checkpoint = Checkpoint(record["step"], record["weights"])
        by_checkpoint.setdefault(checkpoint, {})[record["attack"]] = Score.of(record)
    return {c: by_checkpoint[c] for c in sorted(by_checkpoint, key=lambda c: (c.step, c.weights != "raw"))}


def _figures(run: Run, selected: Checkpoint, attack: str, confusions: dict[str, np.ndarray]) -> dict[str, str]:
    """SVG by name: bars, learning, classes_<attack>, confusion_<attack>."""
    scores = run.scores[selected]
    names = scores[attack].class_names
    bars = {a: (_floats(s.summary.class_accuracy), *np.array(s.class_interval).T) for a, s in scores.items()}
    drawn = {"bars": figures.class_bars(names, bars)}
    if len({c.step for c in run.scores}) > 1:
        marked = run.epoch(selected) if run.best_checkpoint() else None
        drawn["learning"] = figures.learning_curves(_learning_curves(run), selected_epoch=marked)
        for a in dict.fromkeys((attack, "clean")):
            history = run.over_training(a, selected.weights)
            if history:
                accuracy = np.array([_floats(s.summary.class_accuracy) for s in history])
                epochs = [s.record["epoch"] for s in history]
                drawn[f"classes_{a}"] = figures.class_curves(epochs, accuracy, names, a, marked)
    for a, matrix in confusions.items():
        drawn[f"confusion_{a}"] = figures.confusion_matrix(matrix, names, a)
    return {name: markupsafe.Markup(figures.to_svg(figure)) for name, figure in drawn.items()}


def _learning_curves(run: Run) -> dict[str, dict[str, figures.Curve]]:
    """Curves by attack and weights, and those of the training batches where they were logged."""
    curves = {}
    for attack in dict.fromkeys(attack for scores in run.scores.values() for attack in scores):
        for weights in ("averaged", "raw"):
            history = run.over_training(attack, weights)
            if history:
                curves.setdefault(attack, {})[weights] = figures.Curve(
                    epoch=[s.record["epoch"] for s in history],
                    average=[s.summary.accuracy for s in history],
                    worst=[s.summary.worst_class_accuracy for s in history],
                )
    logged = [(line["epoch"], _floats(line.get("train_class_accuracy") or [])) for line in run.training]
    logged = [(epoch, accuracy[~np.isnan(accuracy)]) for epoch, accuracy in logged]
    logged = [(epoch, accuracy.mean(), accuracy.min()) for epoch, accuracy in logged if accuracy.size]
    if logged:
        curves["training attack"] = {"training": figures.Curve(*zip(*logged, strict=True))}
    return curves


def facts(config: dict, origin: dict | None) -> list[tuple[str, str]]:
    """What the run is, in a few words each; facts that the config does not hold are left out."""
    if not config:
        return []
    facts = {
        "data": field(config, "data.name"),
        "model": field(config, "model.name"),
        "threat": _threat(field(config, "threat", {})),
    }
    if origin:
        facts["weights"] = f"imported from {origin['file']} (SHA-256 {origin['sha256'][:12]})"
    else:
        facts |= {
            "objective": field(config, "objective.name"),
            "remedy": field(config, "remedy.name"),
            "training": f"{field(config, 'train.epochs')} epochs, seed {field(config, 'train.seed')}",
        }
    return [(name, fact) for name, fact in facts.items() if fact]


def _threat(threat: dict) -> str | None:
    if not threat:
        return None
    eps = threat.get("eps") if threat.get("eps") is not None else threat.get("eps_255", 0) / 255
    return f"{pages.norm(threat.get('norm'))} ball of radius {pages.radius(eps, threat.get('norm'))}"


def _floats(values) -> np.ndarray:
    """An array with nan for None."""
    return np.array([np.nan if value is None else value for value in values], float)


def _classes(scores: dict[str, Score]) -> tuple[list[str], list[int]]:
    record = next(iter(scores.values())).record
    return record["classes"], record["count"]


def field(config: dict, dotted: str, default=None):
    """A field of nested dicts by its dotted name."""
    for name in dotted.split("."):
        if not isinstance(config, dict) or name not in config:
            return default
        config = config[name]
    return config


def main(arguments: list[str] | None = None) -> int:
    """The command: prints the path of the report, or one line about what is wrong. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise UserError("usage: python -m jaxrobust.report WORKDIR")
        print(write_report(arguments[0]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
