"""The results of a run: what the files in its workdir hold, and how they are written and read.

    results.jsonl     one line per (step, weights, split, attack), see `make_record`
    training.jsonl    one line per epoch of training
    best.json         the best checkpoint so far by validation score
    weights.json      of a run of imported weights: name and SHA-256 of the `file`; of one whose head was changed after
                      training: the `remedy`, its `settings`, what was `chosen`, and of which `run` and checkpoint
    classes.json      what the results say of the classes of the selected checkpoint, see `class_results.class_truth`
    examples/<step>-<weights>-<split>.npz
                      labels [N], index [N] of each example in the split, and for each attack `<attack>` bool [N], true
                      where the example survives it, and `<attack>_prediction` [N]

A line in results.jsonl is written after the arrays it is made of, so where there is a line there are arrays.
"""

import dataclasses
import io
import json
import pathlib
import zipfile
import zlib

import numpy as np

from jaxrobust import classwise, console, files

RESULTS = "results.jsonl"
TRAINING = "training.jsonl"
BEST = "best.json"
ORIGIN = "weights.json"
CLASSES = "classes.json"
EXAMPLES = "examples"
KEY = ("step", "weights", "split", "attack")
# A confusion matrix of more classes than this would make a line of megabytes; it can be had from the examples file.
CONFUSION_CLASSES = 100


def make_record(
    *,
    step,
    epoch,
    weights,
    split,
    attack,
    class_names,
    labels,
    prediction,
    clean_prediction,
    passes,
    idle,
    seconds,
    **settings,
) -> dict:
    """One line of results.jsonl.

    Args:
        step, epoch: of the checkpoint; epoch counts the epochs completed.
        weights: "raw" or "averaged".
        split: "validation" or "test".
        attack: its name in `eval.attacks`; of a suite's member "SUITE/MEMBER", with the worst case up to that one.
        labels, clean_prediction: [N] ints.
        split_examples: in the settings, how many examples the split has, of which these N may be a subset.
        prediction: [N] ints; that of the clean image where it is wrong, since an attacker may leave it alone.
        passes: arithmetic per example, in forward passes.
        idle: the share of them spent on examples already broken, and on filling up batches.
        seconds: that the attack took.
        settings: of the attack: norm, eps, step_size, steps, restarts, targets, loss, members.
    """
    num_classes = len(class_names)
    count = classwise.class_counts(labels, num_classes)
    correct = classwise.correct_counts(labels, prediction == labels, num_classes)
    clean_correct = classwise.correct_counts(labels, clean_prediction == labels, num_classes)
    figures = classwise.summary(correct, count)
    low, high = classwise.wilson_interval(correct, count)
    record = {
        "step": step,
        "epoch": epoch,
        "weights": weights,
        "split": split,
        "attack": attack,
        **settings,
        "examples": len(labels),
        "classes": list(class_names),
        "count": count.tolist(),
        "correct": correct.tolist(),
        "accuracy": figures.accuracy,
        "balanced_accuracy": figures.balanced_accuracy,
        "class_accuracy": list(figures.class_accuracy),
        "class_interval": np.stack([low, high], axis=1).tolist(),
        "worst_class": class_names[figures.worst_class],
        "worst_class_accuracy": figures.worst_class_accuracy,
        "best_class": class_names[figures.best_class],
        "best_class_accuracy": figures.best_class_accuracy,
        "gap": figures.gap,
        "std": figures.std,
        "cv": figures.cv,
        "nsd": figures.nsd,
        "bottom_k": figures.bottom_k,
        "bottom_k_mean": figures.bottom_k_mean,
        "boundary_error": (
            None if attack == "clean" else list(classwise.boundary_error(clean_correct, correct, count))
        ),
    }
    if num_classes <= CONFUSION_CLASSES:
        record["confusion"] = classwise.confusion(labels, prediction, num_classes).tolist()
    return record | {"passes": round(passes, 3), "idle": round(idle, 4), "seconds": round(seconds, 3)}


def is_member(attack: str) -> bool:
    """Whether the result of that name is of a suite's member, SUITE/MEMBER."""
    return "/" in attack


def total_work(records: list[dict]) -> dict:
    """Passes, idle share and seconds of several results of the same examples together."""
    passes = sum(record["passes"] for record in records)
    idle = sum(record["passes"] * record["idle"] for record in records)
    return {
        "passes": passes,
        "idle": idle / passes if passes else 0.0,
        "seconds": sum(record["seconds"] for record in records),
    }


def read(workdir) -> list[dict]:
    """The lines of results.jsonl, in order."""
    return files.read_records(pathlib.Path(workdir) / RESULTS)


def append(workdir, record: dict) -> bool:
    """Append a line unless its (step, weights, split, attack) is there. Returns whether it was appended."""
    return files.append_record(pathlib.Path(workdir) / RESULTS, record, KEY)


def key_of(record: dict) -> tuple:
    """(step, weights, split, attack)."""
    return tuple(record[name] for name in KEY)


def append_training(workdir, record: dict) -> bool:
    """Append an epoch's line to training.jsonl unless the epoch is there."""
    return files.append_record(pathlib.Path(workdir) / TRAINING, record, ("epoch",))


def examples_path(workdir, step: int, weights: str, split: str) -> pathlib.Path:
    """Where the verdicts of a (step, weights, split) are."""
    return pathlib.Path(workdir) / EXAMPLES / f"{step}-{weights}-{split}.npz"


def read_examples(workdir, step: int, weights: str, split: str) -> dict:
    """The arrays of an examples file; empty where there is none, or none that can be read."""
    path = examples_path(workdir, step, weights, split)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        console.warn(f"{path} cannot be read ({error}); what it held is missing")
        return {}


def example_names(workdir, step: int, weights: str, split: str) -> list[str]:
    """The names of the arrays of an examples file, which are not read; none where it cannot be read."""
    try:
        with np.load(examples_path(workdir, step, weights, split), allow_pickle=False) as arrays:
            return arrays.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return []


def add_examples(workdir, step: int, weights: str, split: str, arrays: dict) -> None:
    """Add arrays to an examples file, beside those that it holds, and replace it as a whole."""
    path = examples_path(workdir, step, weights, split)
    path.parent.mkdir(exist_ok=True)
    with files.locked(pathlib.Path(workdir) / ".examples"):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **read_examples(workdir, step, weights, split) | arrays)
        files.write_atomically(path, buffer.getvalue())


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What the files hold of one (step, weights, split)."""

    workdir: pathlib.Path
    step: int
    weights: str
    split: str

    def records(self) -> dict[str, dict]:
        """The lines of results.jsonl, by attack."""
        key = (self.step, self.weights, self.split)
        return {record["attack"]: record for record in read(self.workdir) if key_of(record)[:3] == key}

    def is_finished(self, attack: str) -> bool:
        """Whether there are the line and the predictions of an attack. Lost ones have to be made again."""
        return self.finished(attack) is not None

    def finished(self, attack: str) -> list[int] | None:
        """The predictions under an attack, if its line is there and they are."""
        if attack not in self.records():
            return None
        prediction = read_examples(self.workdir, self.step, self.weights, self.split).get(f"{attack}_prediction")
        return None if prediction is None else prediction.tolist()

    def add(self, attack: str, labels, index, prediction) -> None:
        """Keep the verdicts under an attack, and drop what was kept of it unfinished."""
        arrays = {
            "labels": labels,
            "index": index,
            attack: prediction == labels,
            f"{attack}_prediction": prediction.astype(np.int32),
        }
        add_examples(self.workdir, self.step, self.weights, self.split, arrays)
        self._unfinished(attack).unlink(missing_ok=True)

    def keep_unfinished(self, attack: str, prediction, todo, **work) -> None:
        """Keep what is known in the middle of an attack: predictions [N], of which those at `todo` are not made."""
        state = {"prediction": prediction.tolist(), "todo": todo.tolist(), "work": work}
        self._unfinished(attack).parent.mkdir(exist_ok=True)
        files.write_atomically(self._unfinished(attack), json.dumps(state))

    def unfinished(self, attack: str) -> dict | None:
        """What `keep_unfinished` has kept of that attack, as the dict of its arguments."""
        return files.read_json(self._unfinished(attack))

    def _unfinished(self, attack: str) -> pathlib.Path:
        path = examples_path(self.workdir, self.step, self.weights, self.split)
        return path.with_suffix(f".{attack.replace('/', '~')}.unfinished.json")


def find_best(records: list[dict], *, attack: str, criterion: str) -> dict | None:
    """The checkpoint and weights with the highest validation score, the earliest of several; None without validation.

    Args:
        attack: the attack under which accuracy counts.
        criterion: "average" accuracy, that of the "worst" class, or their "sum", which Wei et al. (2023) select by.
    """
    scores = {
        "average": lambda record: record["accuracy"],
        "worst": lambda record: record["worst_class_accuracy"],
        "sum": lambda record: record["accuracy"] + record["worst_class_accuracy"],
    }
    candidates = [record for record in records if record["split"] == "validation" and record["attack"] == attack]
    if not candidates:
        return None
    # By step, then raw before averaged: the order of evaluation must not matter.
    candidates.sort(key=lambda record: (record["step"], record["weights"] != "raw"))
    best = max(candidates, key=scores[criterion])
    return {
        "step": best["step"],
        "epoch": best["epoch"],
        "weights": best["weights"],
        "criterion": criterion,
        "attack": attack,
        "score": scores[criterion](best),
    }
