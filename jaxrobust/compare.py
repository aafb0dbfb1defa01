"""Two runs compared class by class on the same images: which classes differ, and does the worst.

    python -m jaxrobust.compare RUN_A RUN_B [--split test|validation] [--attack NAME ...] [--weights best|raw|averaged]
        [--step_a STEP] [--step_b STEP] [--out DIR]

Compared are the best checkpoint of each run (else its last), under every attack that both were scored under. Prints
a table and what follows from it, and writes compare.html, compare.json and the figures to DIR, by default
RUN_B/compare-<name of RUN_A>. Differences are B minus A.
"""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np

from jaxrobust import classwise, compare_pages, console, files, report_suites, results
from jaxrobust.errors import FieldError, UserError
from jaxrobust.runs import Checkpoint, Run, Score, facts, field

CONFIDENCE = 0.95
LEVEL = 0.05  # of the tests, after Holm's correction
SPLITS = ("test", "validation")
WEIGHTS = ("best", "raw", "averaged")
# What makes two attacks of one name the same attack.
SETTINGS = ("norm", "eps", "step_size", "steps", "restarts", "members")


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two: a checkpoint of a run with its verdicts.

    Attributes:
        letter: "A" or "B".
        why: what the checkpoint is called: "best", "last" or "given".
        examples: the arrays of its examples file.
    """

    letter: str
    run: Run
    checkpoint: Checkpoint
    why: str
    examples: dict

    @property
    def scores(self) -> dict[str, Score]:
        return self.run.scores[self.checkpoint]

    @property
    def class_names(self) -> list[str]:
        return next(iter(self.scores.values())).class_names


def compare(
    run_a, run_b, *, split: str | None = None, attacks=(), weights: str = "best", step_a=None, step_b=None
) -> dict:
    """Everything that two runs' verdicts say about their difference, as JSON data; accuracies are fractions.

    Args:
        run_a, run_b: their workdirs.
        split: "test" or "validation"; by default test where both were scored on it.
        attacks: names; by default all that both were scored under.
        weights: "best" for those of best.json, else of the last checkpoint, averaged before raw; "raw"; "averaged".
        step_a, step_b: steps of other checkpoints.

    Raises:
        UserError: a workdir or its files cannot be read, or the two were not scored on the same images or attacks.
    """
    runs = Run(run_a, split), Run(run_b, split)
    if runs[0].split != runs[1].split:
        runs = Run(run_a, "validation"), Run(run_b, "validation")
    a = _side("A", runs[0], weights, step_a)
    b = _side("B", runs[1], weights, step_b)
    if a.run.workdir.resolve() == b.run.workdir.resolve() and a.checkpoint == b.checkpoint:
        raise UserError(f"{run_a} and {run_b} are the same checkpoint of the same run; give --step_a, --step_b or two")
    in_a, in_b = _common_examples(a, b)
    names, notes = _common_attacks(a, b, attacks)
    labels = a.examples["labels"][in_a]
    compared = {
        name: _compare_verdicts(labels, a.examples[name][in_a], b.examples[name][in_b], a.class_names) for name in names
    }
    for side in (a, b):
        if labels.size < side.examples["labels"].size:
            total = side.examples["labels"].size
            notes.append(
                f"Of the {total:,} images that {side.letter} was scored on, {labels.size:,} are common to both."
            )
    data = [field(side.run.config, "data.name") for side in (a, b)]
    if None not in data and data[0] != data[1]:
        notes.append(f"The data sets go by different names, {data[0]} and {data[1]}; their labels and classes agree.")
    return {
        "a": _description(a),
        "b": _description(b),
        "split": a.run.split,
        "examples": int(labels.size),
        "confidence": CONFIDENCE,
        "level": LEVEL,
        "headline": _headline(compared),
        "attacks": compared,
        "notes": notes,
    }


def _side(letter: str, run: Run, weights: str, step: int | None) -> Side:
    checkpoint, why = _checkpoint(letter, run, weights, step)
    examples = results.read_examples(run.workdir, checkpoint.step, checkpoint.weights, run.split)
    if "labels" not in examples:
        path = results.examples_path(run.workdir, checkpoint.step, checkpoint.weights, run.split)
        raise UserError(f"{path}: no verdicts per image, so nothing can be paired; copy the folder with the run")
    return Side(letter, run, checkpoint, why, examples)


def _checkpoint(letter: str, run: Run, weights: str, step: int | None) -> tuple[Checkpoint, str]:
    """The checkpoint to compare, and what it is called."""
    selected = run.selected()
    candidates = [c for c in run.scores if weights in ("best", c.weights)]
    if not candidates:
        remedy = f"scored are {', '.join(sorted({c.weights for c in run.scores}))} ones"
        raise FieldError("--weights", weights, f"no such weights of {run.workdir} were scored on {run.split}", remedy)
    if step is not None:
        steps = sorted({c.step for c in candidates})
        candidates = [c for c in candidates if c.step == step]
        if not candidates:
            remedy = f"scored are {', '.join(map(str, steps))}"
            raise FieldError(f"--step_{letter.lower()}", step, f"not scored on {run.split} in {run.workdir}", remedy)
    wanted = selected.step if step is None else step
    checkpoint = max(candidates, key=lambda c: (c.step == wanted, c.step, c.weights == selected.weights))
    if checkpoint == run.best_checkpoint():
        return checkpoint, "best"
    return checkpoint, "last" if step is None and checkpoint.step == run.last_step else "given"


def _common_examples(a: Side, b: Side) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the same images in the arrays of A and of B.

    Raises:
        UserError: names what differs.
    """
    where = f"{a.run.workdir} and {b.run.workdir}"
    remedy = "compare runs on the same data set"
    if len(a.class_names) != len(b.class_names):
        raise UserError(f"{where}: {len(a.class_names)} and {len(b.class_names)} classes; {remedy}")
    for c, (name_a, name_b) in enumerate(zip(a.class_names, b.class_names, strict=True)):
        if name_a != name_b:
            raise UserError(f"{where}: class {c} is {name_a!r} and {name_b!r}; {remedy}")
    labels_a, labels_b = a.examples["labels"], b.examples["labels"]
    if "index" in a.examples and "index" in b.examples:
        _, in_a, in_b = np.intersect1d(a.examples["index"], b.examples["index"], return_indices=True)
        if not in_a.size:
            raise UserError(f"{where}: no image of the {a.run.split} split was scored in both; score both on the same")
    elif labels_a.size == labels_b.size:
        in_a = in_b = np.arange(labels_a.size)
    else:
        raise UserError(f"{where}: {labels_a.size} and {labels_b.size} images of unknown index; score both on the same")
    if (differ := labels_a[in_a] != labels_b[in_b]).any():
        raise UserError(f"{where}: the labels of {differ.sum()} of {in_a.size} images differ; {remedy} and split")
    return in_a, in_b


def _common_attacks(a: Side, b: Side, asked) -> tuple[list[str], list[str]]:
    """The attacks to compare, and sentences about those left out. What was asked for must be there.

    Raises:
        UserError: none is left, or one that was asked for is not there.
    """
    common, left_out = [], []
    for name in asked or a.scores | b.scores:
        lacking = [s for s in (a, b) if name not in s.scores or name not in s.examples]
        if lacking:
            problem = f"not scored, or without verdicts, in {' and '.join(str(s.run.workdir) for s in lacking)}"
        else:
            records = [side.scores[name].record for side in (a, b)]
            settings = [[record.get(setting) for setting in SETTINGS] for record in records]
            differ = [f"{setting} {x} and {y}" for setting, x, y in zip(SETTINGS, *settings, strict=True) if x != y]
            problem = f"another attack in either run, with {', '.join(differ)}" if differ else ""
        if problem and asked:
            raise FieldError("--attack", name, problem, "evaluate both runs alike, or name another")
        if problem:
            left_out.append(f"{name} is left out: {problem}.")
        else:
            common.append(name)
    if not common:
        raise UserError(f"{a.run.workdir} and {b.run.workdir} share no attack; evaluate both alike. {left_out[0]}")
    return common, left_out


def _compare_verdicts(labels, survives_a, survives_b, class_names) -> dict:
    """The figures of one attack."""
    pairs = classwise.paired_counts(labels, survives_a, survives_b, len(class_names))
    present = pairs.count > 0
    p_value = np.where(present, classwise.mcnemar_test(pairs.only_a, pairs.only_b), np.nan)
    columns = {
        "name": class_names,
        "examples": pairs.count,
        "a": classwise.class_accuracy(pairs.correct_a, pairs.count),
        "b": classwise.class_accuracy(pairs.correct_b, pairs.count),
        "only_a": pairs.only_a,
        "only_b": pairs.only_b,
        "difference": classwise.paired_difference(pairs),
        "interval": np.stack(classwise.paired_interval(pairs.only_a, pairs.only_b, pairs.count, CONFIDENCE), 1),
        "p_value": p_value,
        "p_holm": (corrected := classwise.holm_correction(p_value)),
        "significant": corrected <= LEVEL,
    }
    rows = [
        {name: report_suites.plain(value) for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]
    worst = classwise.worst_difference(pairs, CONFIDENCE)
    return {
        "average": _average(pairs.total()),
        "worst": {
            "a": report_suites.worst_of(pairs.correct_a, pairs.count, class_names),
            "b": report_suites.worst_of(pairs.correct_b, pairs.count, class_names),
            "difference": worst.difference,
            "interval": [worst.low, worst.high],
            "significant": not worst.low <= 0 <= worst.high,
        },
        "classes": rows,
    }


def _average(total: classwise.PairedCounts) -> dict:
    low, high = classwise.paired_interval(total.only_a, total.only_b, total.count, CONFIDENCE)
    p_value = float(classwise.mcnemar_test(total.only_a, total.only_b)[0])
    return {
        "a": float(total.correct_a[0] / total.count[0]),
        "b": float(total.correct_b[0] / total.count[0]),
        "only_a": int(total.only_a[0]),
        "only_b": int(total.only_b[0]),
        "difference": float(classwise.paired_difference(total)[0]),
        "interval": [float(low[0]), float(high[0])],
        "p_value": p_value,
        "significant": p_value <= LEVEL,
    }


def _headline(compared: dict) -> str:
    """The attack that the two survive least. Of several alike the shortest name: a suite comes before its members."""
    return min(compared, key=lambda name: (sum(compared[name]["average"][side] for side in "ab"), len(name)))


def _description(side: Side) -> dict:
    return {
        "workdir": str(side.run.workdir),
        "name": side.run.workdir.resolve().name,
        "step": side.checkpoint.step,
        "epoch": side.run.epoch(side.checkpoint),
        "weights": side.checkpoint.weights,
        "checkpoint": side.why,
        "facts": dict(facts(side.run.config, side.run.origin)),
    }


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; python -m jaxrobust.compare --help shows the options")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser("python -m jaxrobust.compare", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("run_a", metavar="RUN_A", help="workdir of a run")
    parser.add_argument("run_b", metavar="RUN_B", help="workdir of the other")
    parser.add_argument("--split", choices=SPLITS, help="default: test where both were scored on it")
    parser.add_argument("--attack", action="append", default=[], help="may be given again; default: all in common")
    parser.add_argument("--weights", choices=WEIGHTS, default="best", help="default: those of the best checkpoint")
    parser.add_argument("--step_a", type=int, help="step of A's checkpoint; default: its best, else its last")
    parser.add_argument("--step_b", type=int, help="the same of B")
    parser.add_argument("--out", type=pathlib.Path, help="folder to write to; default: RUN_B/compare-<name of RUN_A>")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command: prints tables, sentences and the path of the page, or one line about what is wrong."""
    try:
        given = _arguments(arguments)
        figures = compare(
            given.run_a,
            given.run_b,
            split=given.split,
            attacks=tuple(dict.fromkeys(given.attack)),
            weights=given.weights,
            step_a=given.step_a,
            step_b=given.step_b,
        )
        folder = given.out or pathlib.Path(given.run_b) / f"compare-{figures['a']['name']}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.write_atomically(folder / "compare.json", files.to_json(figures))
            path = compare_pages.write(folder, figures)
        except OSError as error:
            raise FieldError("--out", str(folder), error.strerror or str(error), "give a folder to write to") from error
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in figures["notes"]:
        console.warn(line)
    for title, table in compare_pages.tables(figures):
        console.say(title)
        console.show(table)
    for sentence in compare_pages.conclusion(figures):
        console.say(sentence)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
