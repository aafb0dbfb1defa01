"""The results of a run: what the files in its workdir hold, and how they are written and read.

    results.jsonl     one line per (step, weights, split, attack), see `make_record`
    training.jsonl    one line per epoch of training
    best.json         the best checkpoint so far by validation score
    examples/<step>-<weights>-<split>.npz
                      labels [N], index [N] of each example in the split, and for each attack `<attack>` bool [N], true
                      where the example survives it, and `<attack>_prediction` [N]

A line in results.jsonl is written after the arrays it is made of, so where there is a line there are arrays.
"""

import io
import pathlib
import zipfile
import zlib

import numpy as np

from jaxrobust import classwise, console, files

RESULTS = "results.jsonl"
TRAINING = "training.jsonl"
BEST = "best.json"
EXAMPLES = "examples"
KEY = ("step", "weights", "split", "attack")
# A confusion matrix of more classes than this would make a line of megabytes; it can be had from the examples file.
CONFUSION_CLASSES = 100


def make_record(
    *, step, epoch, weights, split, attack, class_names, labels, prediction, clean_prediction, seconds, **settings
) -> dict:
    """One line of results.jsonl.

    Args:
        step, epoch: of the checkpoint; epoch counts the epochs completed.
        weights: "raw" or "averaged".
        split: "validation" or "test".
        attack: its name in `eval.attacks`.
        labels, clean_prediction: [N] ints.
        prediction: [N] ints, as `worst_prediction` gives it.
        seconds: that the attack took.
        settings: of the attack: norm, eps, step_size, steps, restarts.
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
    return record | {"seconds": round(seconds, 3)}


def worst_prediction(labels, prediction, clean_prediction):
    """The prediction [N] that an attacker gets: on the attacked image, or on the clean one where only that is wrong.

    An attacker may leave the image alone, so an example survives only if both are right, and robust accuracy is never
    above clean accuracy.
    """
    return np.where(
        clean_prediction == labels, prediction, np.where(prediction == labels, clean_prediction, prediction)
    )


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


def add_examples(workdir, step: int, weights: str, split: str, arrays: dict) -> None:
    """Add arrays to an examples file, beside those that it holds, and replace it as a whole."""
    path = examples_path(workdir, step, weights, split)
    path.parent.mkdir(exist_ok=True)
    with files.locked(pathlib.Path(workdir) / ".examples"):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **read_examples(workdir, step, weights, split) | arrays)
        files.write_atomically(path, buffer.getvalue())


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
