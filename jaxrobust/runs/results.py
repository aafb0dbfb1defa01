"""The result files in a run's workdir: their content, and the one place where each is written and read.

    config.json       the config of the run
    results.jsonl     one line per (step, weights, split, attack), see `make_record` and `Result`
    training.jsonl    one line per epoch of training
    best.json         the best checkpoint so far by validation score
    weights.json      for imported weights: name and SHA-256 of the `file`; for a head changed after training: the
                      `remedy`, its `settings`, the `chosen` values, and the original `run` and checkpoint
    classes.json      per-class findings for the selected checkpoint, see `class_summary.class_truth`
    examples/<step>-<weights>-<split>.npz
                      labels [N], index [N] of each example in the split, and for each attack `<attack>` bool [N],
                      whether the example is classified correctly under it, and `<attack>_prediction` [N], -1 if there
                      is none; `zero_gradient` bool [N], whether the cross-entropy's gradient is exactly zero at the
                      clean image

A line in results.jsonl is written after its arrays, so a line implies that its arrays exist.
"""

import dataclasses
import io
import json
import pathlib
import zipfile
import zlib

import numpy as np

from jaxrobust import classwise, console, files


class JsonFile(str):
    """The name of a JSON file in a workdir, with its reader and its writer."""

    __slots__ = ()

    def read(self, workdir):
        """The content; None if there is no file."""
        return files.read_json(pathlib.Path(workdir) / self)

    def write(self, workdir, content) -> None:
        """Replace the file."""
        files.write_atomically(pathlib.Path(workdir) / self, files.to_json(content))


CONFIG = JsonFile("config.json")
BEST = JsonFile("best.json")
ORIGIN = JsonFile("weights.json")
CLASSES = JsonFile("classes.json")
RESULTS = "results.jsonl"
TRAINING = "training.jsonl"
EXAMPLES = "examples"
KEY = ("step", "weights", "split", "attack")
# With more classes, lines with a confusion matrix would take megabytes; the examples file has the data for it.
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
        attack: its name in `eval.attacks`; "SUITE/MEMBER" for the worst case over a suite up to that member.
        labels, clean_prediction: [N] ints.
        split_examples: in `settings`, the number of examples in the split, of which these N may be a subset.
        prediction: [N] ints; the clean prediction where that is wrong already, as such an image is not attacked; -1
            where there is none.
        passes: arithmetic per example, in forward passes.
        idle: the share of `passes` spent on examples that were not robust any more, and on padding of batches.
        seconds: duration of the attack.
        settings: of the attack: norm, eps, step_size, steps, restarts, targets, loss, members.
    """
    score = classwise.Score.of(labels, prediction == labels, class_names)
    boundary_error = None
    if attack != "clean":
        clean_correct = classwise.correct_counts(labels, clean_prediction == labels, len(class_names))
        boundary_error = list(classwise.boundary_error(clean_correct, score.correct, score.count))
    record = {
        "step": step,
        "epoch": epoch,
        "weights": weights,
        "split": split,
        "attack": attack,
        **settings,
        "examples": len(labels),
        **score.to_record(),
        "boundary_error": boundary_error,
    }
    if len(class_names) <= CONFUSION_CLASSES:
        record["confusion"] = classwise.confusion(labels, prediction, len(class_names)).tolist()
    return record | {"passes": round(passes, 3), "idle": round(idle, 4), "seconds": round(seconds, 3)}


@dataclasses.dataclass(frozen=True, eq=False)
class Result(classwise.Score):
    """A line of results.jsonl, `record`: the score of one attack on one checkpoint, computed from its counts."""

    record: dict = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, record: dict) -> "Result":
        return cls(record["correct"], record["count"], record["classes"], record=record)

    @property
    def images(self) -> str:
        """Which images were scored: "10,000 test images", with the size of the split if they are only a part of it."""
        number, split = int(self.count.sum()), self.record["split"]
        whole = self.record.get("split_examples", number)
        return f"{number:,} {split} images" + (f" (a stratified subset of {whole:,})" if number < whole else "")


def is_member(attack: str) -> bool:
    """Whether a result with this name is of a member of a suite, SUITE/MEMBER."""
    return "/" in attack


def total_work(records: list[dict]) -> dict:
    """Passes, idle share and seconds of several results on the same examples, added up."""
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
    """Append a line unless one with its (step, weights, split, attack) exists. Returns whether it was appended."""
    return files.append_record(pathlib.Path(workdir) / RESULTS, record, KEY)


def key_of(record: dict) -> tuple:
    """(step, weights, split, attack)."""
    return tuple(record[name] for name in KEY)


def read_training(workdir) -> list[dict]:
    """The lines of training.jsonl, in order."""
    return files.read_records(pathlib.Path(workdir) / TRAINING)


def append_training(workdir, record: dict) -> bool:
    """Append an epoch's line to training.jsonl unless one for the epoch exists. Returns whether it was appended."""
    return files.append_record(pathlib.Path(workdir) / TRAINING, record, ("epoch",))


def read_arrays(path) -> dict:
    """The arrays of an .npz file; empty if there is none, and with a warning if it cannot be read."""
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        console.warn(f"{path} cannot be read ({error}); its content is treated as missing, and computed again")
        return {}


def add_arrays(path, arrays: dict) -> None:
    """Add arrays to those of an .npz file, which is replaced atomically."""
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **read_arrays(path) | arrays)
    files.write_atomically(path, buffer.getvalue())


def examples_path(workdir, step: int, weights: str, split: str) -> pathlib.Path:
    """The examples file of a (step, weights, split)."""
    return pathlib.Path(workdir) / EXAMPLES / f"{step}-{weights}-{split}.npz"


def read_examples(workdir, step: int, weights: str, split: str) -> dict:
    """The arrays of an examples file; empty if there is none, and with a warning if it cannot be read."""
    return read_arrays(examples_path(workdir, step, weights, split))


def example_names(workdir, step: int, weights: str, split: str) -> list[str]:
    """The names of the arrays of an examples file, without reading the arrays; none if it cannot be read."""
    try:
        with (
            open(examples_path(workdir, step, weights, split), "rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            return arrays.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return []


def add_examples(workdir, step: int, weights: str, split: str, arrays: dict) -> None:
    """Add arrays to those of an examples file; the file is replaced atomically."""
    with files.locked(pathlib.Path(workdir) / ".examples"):
        add_arrays(examples_path(workdir, step, weights, split), arrays)


class StoredResults:
    """The results and predictions of one (step, weights, split) in the files."""

    def __init__(self, workdir, step: int, weights: str, split: str):
        self._of = pathlib.Path(workdir), step, weights, split
        own = (step, weights, split)
        self._log = files.RecordLog(pathlib.Path(workdir) / RESULTS, lambda record: key_of(record)[:3] == own)

    def records(self) -> dict[str, dict]:
        """The lines of results.jsonl as they are now, by attack."""
        return {record["attack"]: record for record in self._log.read()}

    def append(self, record: dict) -> bool:
        """Append a line to results.jsonl, see `append`."""
        return self._log.append(record, KEY)

    def is_finished(self, attack: str) -> bool:
        """Whether both the line and the predictions of an attack exist. Lost predictions have to be computed again."""
        return self.finished(attack) is not None

    def finished(self, attack: str) -> list[int] | None:
        """The predictions under an attack; None unless both they and its line exist."""
        if attack not in self.records():
            return None
        prediction = read_examples(*self._of).get(f"{attack}_prediction")
        return None if prediction is None else prediction.tolist()

    def add(self, attack: str, labels, index, prediction) -> None:
        """Save the predictions under an attack, and delete its unfinished state."""
        arrays = {
            "labels": labels,
            "index": index,
            attack: prediction == labels,
            f"{attack}_prediction": prediction.astype(np.int32),
        }
        add_examples(*self._of, arrays)
        self._unfinished(attack).unlink(missing_ok=True)

    def add_zero_gradient(self, is_zero) -> None:
        """Save whether each example has no gradient, [N]."""
        add_examples(*self._of, {"zero_gradient": is_zero})

    def examples(self) -> dict:
        """See `read_examples`."""
        return read_examples(*self._of)

    def keep_unfinished(self, attack: str, prediction, todo, **work) -> None:
        """Save the state in the middle of an attack: predictions [N], still to be computed for the examples `todo`."""
        state = {"prediction": prediction.tolist(), "todo": todo.tolist(), "work": work}
        self._unfinished(attack).parent.mkdir(exist_ok=True)
        files.write_atomically(self._unfinished(attack), json.dumps(state))

    def unfinished(self, attack: str) -> dict | None:
        """The arguments saved by `keep_unfinished` for that attack, as a dict; None if there is nothing."""
        return files.read_json(self._unfinished(attack))

    def _unfinished(self, attack: str) -> pathlib.Path:
        path = examples_path(*self._of)
        return path.with_suffix(f".{attack.replace('/', '~')}.unfinished.json")


def find_best(records: list[dict], *, attack: str, criterion: str) -> dict | None:
    """The checkpoint and weights with the highest validation score under the attack, the earliest if several; None
    without any.

    The criterion is "average" accuracy, accuracy of the "worst" class, or their "sum" (as in Wei et al. 2023).
    """
    scores = {
        "average": lambda record: record["accuracy"],
        "worst": lambda record: record["worst_class_accuracy"],
        "sum": lambda record: record["accuracy"] + record["worst_class_accuracy"],
    }
    candidates = [record for record in records if record["split"] == "validation" and record["attack"] == attack]
    if not candidates:
        return None
    # By step, then raw before averaged, so that the order of evaluation does not matter.
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
