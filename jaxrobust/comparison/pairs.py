"""Comparing two runs, and selecting what to compare: checkpoint of each run, common images and common attacks."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxrobust import classwise, console, files
from jaxrobust.classwise import seeds
from jaxrobust.comparison.compare import LEVEL, compare, correct
from jaxrobust.errors import FieldError, listed
from jaxrobust.runs import results
from jaxrobust.runs.reading import Checkpoint, RunFiles, facts, field
from jaxrobust.runs.results import Result

SPLITS = ("test", "validation")
WEIGHTS = ("best", "raw", "averaged")
# Two attacks of one name are the same attack if these settings agree.
SETTINGS = ("norm", "eps", "step_size", "steps", "restarts", "members")

_NAMED = 3  # runs that a sentence lists


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison: a checkpoint of a run with its results per image.

    Attributes:
        letter: "A" or "B" of two; "" of many.
        why: why this checkpoint: "best", "last" or "given".
        examples: the arrays of its examples file.
    """

    letter: str
    run: RunFiles
    checkpoint: Checkpoint
    why: str
    examples: dict

    @property
    def scores(self) -> dict[str, Result]:
        return self.run.scores[self.checkpoint]

    @property
    def class_names(self) -> list[str]:
        return next(iter(self.scores.values())).class_names

    def description(self) -> dict:
        """Which run and checkpoint this is, as JSON data."""
        return {
            "workdir": str(self.run.workdir),
            "name": self.run.workdir.resolve().name,
            "step": self.checkpoint.step,
            "epoch": self.run.epoch(self.checkpoint),
            "weights": self.checkpoint.weights,
            "checksum": self.run.checksum(self.checkpoint),
            "checkpoint": self.why,
            "facts": dict(facts(self.run.config, self.run.origin)),
        }


def compare_runs(
    run_a, run_b, *, split: str | None = None, attacks=(), weights: str = "best", step_a=None, step_b=None
) -> dict:
    """Compare two runs on the images that both were scored on. Returns JSON data; accuracies are fractions.

    Args:
        run_a, run_b: their workdirs.
        split: "test" or "validation"; by default test where both were scored on it.
        attacks: names; by default all that both were scored under.
        weights: "best": those that best.json names, else those of the last checkpoint, averaged ones if there are any;
            "raw"; "averaged".
        step_a, step_b: steps of other checkpoints.

    Raises:
        UserError: a workdir or its files cannot be read, or the two were not scored on the same images or attacks.
    """
    runs = open_runs((run_a, run_b), split)
    a = open_side("A", runs[0], weights, step_a)
    b = open_side("B", runs[1], weights, step_b)
    if a.run.workdir.resolve() == b.run.workdir.resolve() and a.checkpoint == b.checkpoint:
        problem = "both are the same checkpoint of this run"
        raise FieldError("workdir", str(run_b), problem, "give two steps, step_a and step_b, or two runs")
    in_a, in_b = common_examples(a, b)
    names, notes = common_attacks(a, [b], attacks or a.scores | b.scores, bool(attacks))
    labels = a.examples["labels"][in_a]
    compared = {}
    for name in names:
        named = {f"worst_{side.letter.lower()}": named_on_validation([side], name) for side in (a, b)}
        verdicts = a.examples[name][in_a], b.examples[name][in_b]
        compared[name] = compare(labels, *verdicts, a.class_names, **named).to_json()
    correct(list(compared.values()))
    for side in (a, b):
        if labels.size < side.examples["labels"].size:
            total = side.examples["labels"].size
            notes.append(
                f"Of the {total:,} images that {side.letter} was scored on, {labels.size:,} are common to both."
            )
    notes += notes_on_weights((a, b))
    data = [field(side.run.config, "data.name") for side in (a, b)]
    if None not in data and data[0] != data[1]:
        notes.append(f"The data sets go by different names, {data[0]} and {data[1]}; their labels and classes agree.")
    return {
        "a": a.description(),
        "b": b.description(),
        "split": a.run.split,
        "examples": int(labels.size),
        "confidence": classwise.CONFIDENCE,
        "level": LEVEL,
        "headline": _headline(compared),
        "attacks": compared,
        "notes": notes,
    }


def _headline(compared: dict) -> str:
    """The attack with the lowest accuracy; among equals the shortest name, so a suite comes before its members."""
    return min(compared, key=lambda name: (sum(compared[name]["average"][side] for side in "ab"), len(name)))


def open_runs(workdirs, split: str | None) -> list[RunFiles]:
    """The runs; without a split, of the test split where all were scored on it, else of the validation split.

    Raises:
        UserError: see `RunFiles`.
    """
    runs = [RunFiles(workdir, split) for workdir in workdirs]
    if len({run.split for run in runs}) > 1:
        runs = [RunFiles(workdir, "validation") for workdir in workdirs]
    return runs


def check_distinct(workdirs) -> None:
    """Raises UserError if a workdir is given twice."""
    folders = [files.folder(workdir, "workdir").resolve() for workdir in workdirs]
    if twice := [str(w) for w, folder in zip(workdirs, folders, strict=True) if folders.count(folder) > 1]:
        raise FieldError("workdir", twice[0], "is given twice", "give each run once")


def open_side(letter: str, run: RunFiles, weights: str, step: int | None = None) -> Side:
    """The checkpoint of a run that is to be compared.

    Args:
        letter: see `Side`.
        weights: one of `WEIGHTS`: "best" for those of best.json, else of the last checkpoint, averaged before raw.
        step: of another checkpoint.

    Raises:
        UserError: it was not scored, or has no results per image.
    """
    checkpoint, why = _checkpoint(letter, run, weights, step)
    examples = run.examples(checkpoint)
    if "labels" not in examples:
        path = results.examples_path("", checkpoint.step, checkpoint.weights, run.split)
        problem = f"has no results per image in {path}, so nothing can be paired"
        raise FieldError("workdir", str(run.workdir), problem, f"copy {path.parent} with the run, or evaluate it again")
    return Side(letter, run, checkpoint, why, examples)


def _checkpoint(letter: str, run: RunFiles, weights: str, step: int | None) -> tuple[Checkpoint, str]:
    """The checkpoint to compare, and what it is called."""
    selected = run.selected()
    candidates = [c for c in run.scores if weights in ("best", c.weights)]
    if not candidates:
        problem = f"no such weights of {run.workdir} were scored on {run.split}"
        raise FieldError("weights", weights, problem, listed(sorted({c.weights for c in run.scores})))
    if step is not None:
        steps = sorted({c.step for c in candidates})
        candidates = [c for c in candidates if c.step == step]
        if not candidates:
            problem = f"was not scored on {run.split} in {run.workdir}"
            raise FieldError(f"step_{letter.lower()}", step, problem, listed(steps))
    wanted = selected.step if step is None else step
    if step is None and run.best and not run.best_checkpoint():
        console.warn(f"{run.workdir}: its best checkpoint is not scored on {run.split}; taking the last, step {wanted}")
    checkpoint = max(candidates, key=lambda c: (c.step == wanted, c.step, c.weights == selected.weights))
    if checkpoint == run.best_checkpoint():
        return checkpoint, "best"
    return checkpoint, "last" if step is None and checkpoint.step == run.last_step else "given"


def notes_on_weights(sides: Sequence[Side]) -> list[str]:
    """A sentence where raw weights of some runs stand beside averaged ones of others.

    Imported weights and heads changed after training are what they are, whatever their origin.
    """
    trained = [side for side in sides if side.run.origin is None]
    raw = [str(side.run.workdir) for side in trained if side.checkpoint.weights == "raw"]
    if not 0 < len(raw) < len(trained):
        return []
    who = ", ".join(raw[:_NAMED]) + (f" and {len(raw) - _NAMED} more" if len(raw) > _NAMED else "")
    return [
        f"Raw weights ({who}) stand beside averaged ones, and averaging alone changes robustness; "
        "weights = raw compares like with like."
    ]


def common_examples(a: Side, b: Side) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the same images in the arrays of A and of B.

    Raises:
        UserError: names what differs.
    """

    def wrong(problem, remedy="compare runs on the same data set"):
        return FieldError("workdir", f"{a.run.workdir} and {b.run.workdir}", problem, remedy)

    if len(a.class_names) != len(b.class_names):
        raise wrong(f"have {len(a.class_names)} and {len(b.class_names)} classes")
    for c, (name_a, name_b) in enumerate(zip(a.class_names, b.class_names, strict=True)):
        if name_a != name_b:
            raise wrong(f"class {c} is {name_a!r} and {name_b!r}")
    labels_a, labels_b = a.examples["labels"], b.examples["labels"]
    if "index" in a.examples and "index" in b.examples:
        _, in_a, in_b = np.intersect1d(a.examples["index"], b.examples["index"], return_indices=True)
        if not in_a.size:
            raise wrong(f"no image of the {a.run.split} split was scored in both", "score both on the same")
    elif labels_a.size == labels_b.size:
        in_a = in_b = np.arange(labels_a.size)
    else:
        problem = f"have {labels_a.size} and {labels_b.size} images of unknown index"
        raise wrong(problem, "score both on the same")
    if (differ := labels_a[in_a] != labels_b[in_b]).any():
        raise wrong(f"the labels of {differ.sum()} of {in_a.size} images differ")
    return in_a, in_b


def attack_problem(name: str, a: Side, b: Side) -> str:
    """Why the results under an attack cannot be compared; empty if they can."""
    lacking = [str(s.run.workdir) for s in (a, b) if name not in s.scores or name not in s.examples]
    if lacking:
        return f"not scored, or without results per image, in {' and '.join(dict.fromkeys(lacking))}"
    records = [side.scores[name].record for side in (a, b)]
    settings = [[record.get(setting) for setting in SETTINGS] for record in records]
    differ = [f"{setting} {x} and {y}" for setting, x, y in zip(SETTINGS, *settings, strict=True) if x != y]
    return f"another attack in either run, with {', '.join(differ)}" if differ else ""


def named_on_validation(sides: Sequence[Side], attack: str) -> list[int] | None:
    """The classes that the sides, seeds of one method, may classify worst by their validation split, see `seeds`.

    Under the attack, or where that was not scored there, under the strongest that was. None without such results, or if
    validation images are what is compared.
    """
    if any(side.run.split == "validation" or not side.run.validation_examples for side in sides):
        return None
    scores = [RunFiles(side.run.workdir, "validation").scores.get(side.checkpoint, {}) for side in sides]
    common = [n for n in scores[0] if all(n in of for of in scores) and (n == "clean") == (attack == "clean")]
    if not common:
        return None
    accuracy = {n: np.array([classwise.class_accuracy(of[n].correct, of[n].count) for of in scores]) for n in common}
    return seeds.lowest_classes(accuracy[min(common, key=lambda n: (n != attack, np.nanmean(accuracy[n])))])


def common_attacks(a: Side, others: Sequence[Side], names, asked: bool) -> tuple[list[str], list[str]]:
    """Those of the attacks `names` under which A can be compared with all others, and sentences about those left out.

    Raises:
        UserError: none is left, or one is left out that was asked for.
    """
    common, left_out = [], []
    for name in names:
        problems = [problem for other in others if (problem := attack_problem(name, a, other))]
        if problems and asked:
            raise FieldError("attack", name, problems[0], "evaluate all runs alike, or name another")
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            left_out.append(f"{name} is left out: {problems[0]}{more}.")
        else:
            common.append(name)
    if not common:
        who = ", ".join(str(side.run.workdir) for side in (a, *others))
        raise FieldError("workdir", who, f"share no attack ({left_out[0].rstrip('.')})", "evaluate all alike")
    return common, left_out
