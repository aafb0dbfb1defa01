"""What the files of a workdir hold: a type of each, which is checked whenever it is read, and what no type can say.

Each `..._problem` is a clause that says how parts of the content contradict each other, or None.
"""

import math
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
from msgspec import Meta

from jaxrobust import classwise

Count = Annotated[int, Meta(ge=0, le=2**53)]
Amount = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Interval = Annotated[list[float | None], Meta(min_length=2, max_length=2)]
Name = Annotated[str, Meta(min_length=1)]
WeightsName = Literal["raw", "averaged"]
SplitName = Literal["validation", "test"]


class Best(TypedDict):
    """best.json, see `find_best`."""

    step: Count
    weights: WeightsName
    epoch: NotRequired[Count]
    criterion: NotRequired[str]
    attack: NotRequired[str]
    score: NotRequired[float]
    checksum: NotRequired[int | None]  # CRC-32 of the weights, as in their checkpoint


class ClassCounts(TypedDict):
    """data.json, see `Dataset.counts`. Lists have an entry for each class."""

    classes: list[str]
    train: list[Count]
    validation: list[Count]
    test: list[Count]
    skipped: list[str]  # or none at all


class OfWeights(TypedDict):
    """What everything has that is said of weights."""

    step: Count
    weights: WeightsName
    checksum: NotRequired[int | None]


class Origin(TypedDict, total=False):
    """weights.json: `file` and `sha256` of imported weights; or else the other fields, of a changed head."""

    file: str
    sha256: str
    remedy: Name
    run: str
    step: Count
    epoch: Count
    weights: WeightsName
    checksum: int | None
    settings: dict[str, Any]
    chosen: dict[str, Any]
    origin: "Origin"


_Metrics = TypedDict("_Metrics", {m.name: NotRequired[float | None] for m in classwise.METRICS})  # type: ignore[misc]


class Line(_Metrics):
    """A line of results.jsonl, see `make_record`."""

    step: Count
    epoch: Count
    weights: WeightsName
    split: SplitName
    attack: Name
    split_examples: NotRequired[Count]
    norm: NotRequired[str | None]
    eps: NotRequired[Amount | None]
    step_size: NotRequired[Amount | None]
    steps: NotRequired[Count | None]
    restarts: NotRequired[Count | None]
    targets: NotRequired[Count | None]
    loss: NotRequired[str | None]
    members: NotRequired[Annotated[list[Name], Meta(min_length=1)] | None]
    examples: Count
    classes: list[str]
    count: list[Count]
    correct: list[Count]
    class_accuracy: list[Share | None]
    class_interval: list[Interval]
    worst_class: str | None
    best_class: str | None
    bottom_k: Count
    boundary_error: list[float | None] | None
    confusion: NotRequired[list[list[Count]]]
    passes: Amount
    idle: Amount
    seconds: Amount
    checksum: NotRequired[int | None]


class TrainingLine(TypedDict):
    """A line of training.jsonl. Lists have an entry for each class."""

    epoch: Count
    step: NotRequired[Count]
    loss: NotRequired[float]
    learning_rate: NotRequired[float]
    accuracy: NotRequired[Share]
    train_class_accuracy: NotRequired[list[Share | None]]
    train_class_loss: NotRequired[list[float | None]]
    train_class_count: NotRequired[list[Count]]
    images_per_second: NotRequired[Amount]
    knobs: NotRequired[dict[str, list[float]]]
    single_step_check_accuracy: NotRequired[Share]
    pgd_check_accuracy: NotRequired[Share]
    catastrophic_overfitting: NotRequired[bool]


class Work(TypedDict):
    """What an attack has cost so far."""

    passes: Amount
    idle: Amount
    seconds: Amount


class Unfinished(TypedDict):
    """The state in the middle of an attack."""

    checksum: NotRequired[int | None]
    prediction: list[Annotated[int, Meta(ge=-1, le=2**31)]]
    todo: list[Count]
    work: Work


def _lengths_problem(record: dict, names: tuple[str, ...], of: str) -> str | None:
    """The first of the lists of a record that has not as many entries as the list `of`."""
    wrong = [name for name in names if record.get(name) is not None and len(record[name]) != len(record[of])]
    return f"{len(record[wrong[0]])} entries in {wrong[0]}, {len(record[of])} in {of}" if wrong else None


def line_problem(line: Line) -> str | None:
    """How the counts, the confusion and the figures of a line of results.jsonl contradict each other; None if not.
    Figures that it lacks, as a line of an earlier version may, are put in.
    """
    by_class = ("count", "correct", "class_accuracy", "class_interval", "boundary_error", "confusion")
    if problem := _lengths_problem(line, by_class, "classes"):
        return problem
    count, correct = line["count"], line["correct"]
    for name, n, right in zip(line["classes"], count, correct, strict=True):
        if right > n:
            return f"{right} correct of {n} examples of class {name!r}"
    if sum(count) != line["examples"]:
        return f"examples is {line['examples']}, and count adds up to {sum(count)}"
    for c, row in enumerate(line.get("confusion", ())):
        if len(row) != len(count) or sum(row) > count[c] or row[c] != correct[c]:  # what has no class is in no column
            return f"row {c} of confusion is not of {correct[c]} correct of {count[c]}"
    metrics = classwise.Score(correct, count, line["classes"]).metrics
    for name, value in metrics.items():
        stored = line.setdefault(name, value)
        if stored != value and (None in (stored, value) or not math.isclose(stored, value, abs_tol=1e-9)):
            return f"{name} is {stored}, and {value} by the counts"
    return None


def training_problem(line: TrainingLine) -> str | None:
    """How the lists of a line of training.jsonl contradict each other; None if they do not."""
    by_class = {name: values for name, values in line.items() if isinstance(values, list)} | line.get("knobs", {})
    first = next(iter(by_class), None)
    return first and _lengths_problem(by_class, tuple(by_class), first)


def counts_problem(counts: ClassCounts) -> str | None:
    """Which list of data.json has not an entry for each class; None if all have."""
    names = ("train", "validation", "test", *(["skipped"] if counts["skipped"] else []))
    return _lengths_problem(counts, names, "classes")


def origin_problem(origin: Origin) -> str | None:
    """What is missing in weights.json; None if nothing is."""
    needed = ("run", "step", "weights", "settings", "chosen") if "remedy" in origin else ("file", "sha256")
    missing = [name for name in needed if name not in origin]
    if missing:
        return f"{missing[0]} is missing"
    return origin_problem(origin["origin"]) if "origin" in origin else None


def examples_problem(arrays: dict, lines: dict[str, dict]) -> str | None:
    """How the arrays of an examples file contradict each other, or the lines of results.jsonl; None if they do not."""
    if not arrays:
        return None
    labels = arrays.get("labels")
    if labels is None or labels.ndim != 1:
        return "it has no labels"
    for name, array in arrays.items():
        if name == "checksum":
            if array.shape or array.dtype.kind not in "iu":
                return "its checksum is no number"
            continue
        kind = "iu" if name in ("labels", "index") or name.endswith("_prediction") else "b"
        if array.shape != labels.shape or array.dtype.kind not in kind:
            return f"{name} is {array.dtype} {list(array.shape)}, for {len(labels)} labels"
    if "index" in arrays and len(np.unique(arrays["index"])) < len(labels):
        return "an index is there twice"
    for attack in arrays:
        prediction = arrays.get(f"{attack}_prediction")
        if prediction is not None and not np.array_equal(arrays[attack], prediction == labels):
            return f"{attack} is not whether its prediction is the label"
    return _counts_problem(arrays, lines)


def _counts_problem(arrays: dict, lines: dict[str, dict]) -> str | None:
    """How the arrays, which fit each other, contradict the lines of results.jsonl."""
    labels = arrays["labels"]
    for attack, line in lines.items():
        if attack not in arrays:
            continue
        classes, prediction = len(line["classes"]), arrays.get(f"{attack}_prediction", labels)
        if len(labels) and (labels.min() < 0 or max(labels.max(), prediction.max()) >= classes):
            return f"a label or a prediction under {attack} is none of {classes} classes"
        for name, found in (
            ("count", classwise.class_counts(labels, classes)),
            ("correct", classwise.correct_counts(labels, arrays[attack], classes)),
        ):
            if found.tolist() != line[name]:
                return f"{name} under {attack} is {found.tolist()} by it, and {line[name]} in results.jsonl"
    return None
