"""The result files in a run's workdir: their content, and the one place where each is written and read.

    config.json       the config of the run
    data.json         how many examples each class has in each split, and what was skipped; see `Dataset.counts`
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

Whatever is said of weights carries their `checksum`, the CRC-32 that the checkpoint stores of them, and belongs to
the run on two conditions (`history.py` drops what does not):

    its step is not after the one that the training goes on from. What is later, as after a fallback to an older
    checkpoint, is dropped before the training goes on, and comes again with the weights that come then;
    the checkpoint of its step has this checksum, if it is there.

So lines of checkpoints that were deleted to save room stay: they are the history of this training. What was written by
earlier versions has no checksum, and belongs by its step alone.

Each file has a type in `schemas.py`, which is checked whenever it is read: an error names the file, the first thing
that is wrong, and the remedy.
"""

import dataclasses
import io
import json
import pathlib
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from jaxrobust import classwise, config as config_lib, console, files
from jaxrobust.errors import UserError
from jaxrobust.runs import schemas


class JsonFile(str):
    """The name of a JSON file in a workdir, with its reader and its writer.

    Args:
        schema, check: of the content, see `files.read_json`.
    """

    schema: Any
    check: Callable[[Any], str | None]

    def __new__(cls, name: str, schema: Any = Any, check: Callable[[Any], str | None] = lambda content: None):
        self = super().__new__(cls, name)
        self.schema, self.check = schema, check
        return self

    def read(self, workdir):
        """The content; None if there is no file. Raises UserError if it cannot be read, or is not of the schema."""
        return files.read_json(pathlib.Path(workdir) / self, self.schema, self.check)

    def write(self, workdir, content) -> None:
        """Replace the file."""
        files.write_atomically(pathlib.Path(workdir) / self, files.to_json(content))


_SECTIONS = Annotated[dict[str, dict[str, Any]], Meta(min_length=1)]
CONFIG = JsonFile("config.json", _SECTIONS, config_lib.type_problem)
BEST = JsonFile("best.json", schemas.Best)
ORIGIN = JsonFile("weights.json", schemas.Origin, schemas.origin_problem)
CLASSES = JsonFile("classes.json")
DATA = JsonFile("data.json", schemas.ClassCounts, schemas.counts_problem)
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
    checksum=None,
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
        checksum: of these weights, see checkpoints.checksum; None: unknown.
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
        "checksum": checksum,
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


def log(workdir, wanted: Callable[[dict], bool] = lambda record: True) -> files.RecordLog:
    """The lines of results.jsonl that are wanted."""
    return files.RecordLog(pathlib.Path(workdir) / RESULTS, wanted, schema=schemas.Line, check=schemas.line_problem)


def training_log(workdir) -> files.RecordLog:
    """The lines of training.jsonl."""
    path = pathlib.Path(workdir) / TRAINING
    return files.RecordLog(path, schema=schemas.TrainingLine, check=schemas.training_problem)


def read(workdir) -> list[dict]:
    """The lines of results.jsonl, in order. Raises UserError if one is wrong, or two contradict each other."""
    return _checked(log(workdir).read(), workdir)


def _checked(lines: list[dict], workdir) -> list[dict]:
    """The lines, after checking that each result is there once, and on the same images as its checkpoint's others."""
    first, seen = {}, set()
    for line in lines:
        key, other = key_of(line), first.setdefault(key_of(line)[:3], line)
        differs = [name for name in ("epoch", "classes", "count") if line[name] != other[name]]
        if key in seen or differs:
            problem = "is there twice" if key in seen else f"has another {differs[0]} than {other['attack']}"
            what = f"step {line['step']}, {line['weights']} weights, {line['split']} split, {line['attack']}"
            raise UserError(f"{pathlib.Path(workdir) / RESULTS}: {what} {problem}; remove the wrong line")
        seen.add(key)
    return lines


def append(workdir, record: dict) -> bool:
    """Append a line unless one with its (step, weights, split, attack) exists. Returns whether it was appended."""
    return log(workdir).append(record, KEY)


def key_of(record: dict) -> tuple:
    """(step, weights, split, attack)."""
    return tuple(record[name] for name in KEY)


def belongs(checksum: int | None, to: int | None) -> bool:
    """Whether two checksums are of the same weights, as far as is known; None: of an earlier version."""
    return checksum is None or to is None or np.array_equal(checksum, to)  # the first may be of a file


def read_training(workdir) -> list[dict]:
    """The lines of training.jsonl, in order."""
    return training_log(workdir).read()


def append_training(workdir, record: dict) -> bool:
    """Append an epoch's line to training.jsonl unless one for the epoch exists. Returns whether it was appended."""
    return training_log(workdir).append(record, ("epoch",))


def read_arrays(path) -> dict:
    """The arrays of an .npz file; empty if there is none, and with a warning if its content is damaged.

    Raises:
        UserError: there is something else than a file, or it must not be read.
    """
    content = files.read_bytes(path)
    try:
        return {} if content is None else files.read_npz(io.BytesIO(content))
    except ValueError as error:
        console.warn(f"{path} cannot be read ({error}); its content is treated as missing, and computed again")
        return {}


def add_arrays(path, arrays: dict) -> None:
    """Add arrays to those of an .npz file, which is replaced atomically."""
    with files.writing(path.parent):
        path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **read_arrays(path) | arrays)
    files.write_atomically(path, buffer.getvalue())


def examples_path(workdir, step: int, weights: str, split: str) -> pathlib.Path:
    """The examples file of a (step, weights, split)."""
    return pathlib.Path(workdir) / EXAMPLES / f"{step}-{weights}-{split}.npz"


def read_examples(workdir, step: int, weights: str, split: str, lines: dict[str, dict] | None = None) -> dict:
    """The arrays of an examples file; empty if there is none or it is of other weights than the lines, and with a
    warning if it cannot be read.

    Args:
        lines: those of results.jsonl on it, by attack, to compare it with.

    Raises:
        UserError: the arrays contradict each other or the lines.
    """
    path = examples_path(workdir, step, weights, split)
    arrays = read_arrays(path)
    if not all(belongs(arrays.get("checksum"), line.get("checksum")) for line in (lines or {}).values()):
        return {}
    if problem := schemas.examples_problem(arrays, lines or {}):
        of = f"the {weights} weights of step {step}"
        remedy = f"remove it and the lines of {of} in {RESULTS}, and run jaxrobust evaluate"
        raise UserError(f"{path} contradicts itself or {RESULTS} ({problem}); {remedy}")
    return arrays


def example_names(workdir, step: int, weights: str, split: str, checksum: int | None = None) -> list[str]:
    """The names of the arrays of an examples file; none if it is of weights of another checksum. Otherwise as
    `read_arrays`.
    """
    arrays = read_arrays(examples_path(workdir, step, weights, split))
    return list(arrays) if belongs(arrays.get("checksum"), checksum) else []


def add_examples(workdir, step: int, weights: str, split: str, arrays: dict) -> None:
    """Add arrays to those of an examples file; the file is replaced atomically."""
    with files.locked(pathlib.Path(workdir) / ".examples"):
        add_arrays(examples_path(workdir, step, weights, split), arrays)


class StoredResults:
    """The results and predictions of one (step, weights, split) in the files, of the weights with this checksum."""

    def __init__(self, workdir, step: int, weights: str, split: str, checksum: int | None = None):
        self._of, self._checksum = (pathlib.Path(workdir), step, weights, split), checksum
        own = (step, weights, split)
        self._log = log(workdir, lambda line: key_of(line)[:3] == own and belongs(line.get("checksum"), checksum))

    def records(self) -> dict[str, dict]:
        """The lines of results.jsonl as they are now, by attack."""
        return {record["attack"]: record for record in _checked(self._log.read(), self._of[0])}

    def append(self, record: dict) -> bool:
        """Append a line to results.jsonl, see `append`."""
        return self._log.append(record, KEY)

    def is_finished(self, attack: str) -> bool:
        """Whether both the line and the predictions of an attack exist. Lost predictions have to be computed again."""
        return self.finished(attack) is not None

    def finished(self, attack: str) -> list[int] | None:
        """The predictions under an attack; None unless both they and its line exist."""
        records = self.records()
        if attack not in records:
            return None
        prediction = read_examples(*self._of, records).get(f"{attack}_prediction")
        return None if prediction is None else prediction.tolist()

    def add(self, attack: str, labels, index, prediction) -> None:
        """Save the predictions under an attack, and delete its unfinished state."""
        found = {attack: prediction == labels, f"{attack}_prediction": prediction.astype(np.int32)}
        self._add(labels, index, found)
        self._unfinished(attack).unlink(missing_ok=True)

    def add_zero_gradient(self, labels, index, is_zero) -> None:
        """Save whether each example has no gradient, [N]."""
        self._add(labels, index, {"zero_gradient": is_zero})

    def _add(self, labels, index, arrays: dict) -> None:
        about = {"labels": labels, "index": index}
        if self._checksum is not None:
            about["checksum"] = np.int64(self._checksum)
        add_examples(*self._of, about | arrays)

    def keep_unfinished(self, attack: str, prediction, todo, **work) -> None:
        """Save the state in the middle of an attack: predictions [N], still to be computed for the examples `todo`."""
        state = {"checksum": self._checksum, "prediction": prediction.tolist(), "todo": todo.tolist(), "work": work}
        path = self._unfinished(attack)
        with files.writing(path.parent):
            path.parent.mkdir(exist_ok=True)
        files.write_atomically(path, json.dumps(state))

    def unfinished(self, attack: str) -> dict | None:
        """The arguments saved by `keep_unfinished` for that attack, as a dict; None if there is nothing."""
        state = files.read_json(self._unfinished(attack), schemas.Unfinished)
        return state if state and belongs(state.get("checksum"), self._checksum) else None

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
        **{name: best[name] for name in ("checksum",) if name in best},
        "criterion": criterion,
        "attack": attack,
        "score": scores[criterion](best),
    }
