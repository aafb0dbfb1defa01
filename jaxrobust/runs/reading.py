"""Reading a run from the files of its workdir: its checkpoints, and the score of each under each attack."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxrobust import classwise, files, formatting
from jaxrobust.errors import UserError
from jaxrobust.runs import results

CONFIDENCE = 0.95


class Checkpoint(NamedTuple):
    """One set of weights of a run."""

    step: int
    weights: str  # "raw" or "averaged"


@dataclasses.dataclass(frozen=True)
class Score:
    """One attack on one checkpoint: a line of results.jsonl, and the figures computed from its counts.

    Intervals are (low, high) fractions.
    """

    record: dict
    summary: classwise.Summary
    interval: tuple[float, float]  # of the example-weighted accuracy
    balanced_interval: tuple[float, float] | None
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
            balanced_interval=classwise.balanced_interval(correct, count, CONFIDENCE),
            class_interval=tuple(zip(low.tolist(), high.tolist(), strict=True)),
        )

    @property
    def class_names(self) -> list[str]:
        return self.record["classes"]

    @property
    def images(self) -> str:
        """Which images were scored: "10,000 test images", with the size of the split if they are only a part of it."""
        number, split = sum(self.record["count"]), self.record["split"]
        whole = self.record.get("split_examples", number)
        return f"{number:,} {split} images" + (f" (a stratified subset of {whole:,})" if number < whole else "")

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


class Run:
    """The files of a workdir, read once.

    Attributes:
        scores: {(step, weights): {attack: Score}} of `split`, in order of step.
        split: the requested split; without a request, test if it was scored, else validation.
        config: content of config.json; {} if the file is missing.
        best: content of best.json; None if the file is missing.
        origin: content of weights.json, which exists for imported weights and for a head changed after training;
            None otherwise.
        training: lines of training.jsonl.
        validation_examples: number of scored validation examples; 0 if that split was not scored.

    Raises:
        UserError: the folder is not a workdir, has no results (of the split), or has a file that cannot be read.
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
            raise UserError(f"{workdir}: no {results.RESULTS} with results yet; run jaxrobust evaluate first")
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
    def imported(self) -> bool:
        """Whether the weights were trained by another program; a head changed after training counts as its original."""
        _, source = _changes(self.origin)
        return source is not None

    @property
    def last_step(self) -> int:
        return max(step for step, _ in self.scores)

    def best_checkpoint(self) -> Checkpoint | None:
        """The checkpoint that best.json names; None if there is none, or if it has no scores."""
        best = Checkpoint(self.best["step"], self.best["weights"]) if self.best else None
        return best if best in self.scores else None

    def selected(self) -> Checkpoint:
        """The best checkpoint, else the last one; averaged weights before raw ones."""
        return self.best_checkpoint() or self.last_checkpoint()

    def last_checkpoint(self) -> Checkpoint:
        """The last scored checkpoint, with averaged weights if the run has them."""
        return max(self.scores, key=lambda c: (c.step, c.weights == "averaged"))

    def compared(self) -> dict[Checkpoint, str]:
        """The checkpoints that the report compares, with their names: the best, and the last with all its weights."""
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
        """The scores of all checkpoints with these weights under one attack, in order of step."""
        return [scores[attack] for c, scores in self.scores.items() if c.weights == weights and attack in scores]

    def confusion(self, checkpoint: Checkpoint, attack: str) -> np.ndarray | None:
        """Confusion counts [C, C] under an attack, from the results or the examples file; None if in neither."""
        record = self.scores[checkpoint][attack].record
        if record.get("confusion") is not None:
            return np.array(record["confusion"])
        examples = results.read_examples(self.workdir, checkpoint.step, checkpoint.weights, self.split)
        prediction = examples.get(f"{attack}_prediction")
        if prediction is None:
            return None
        return classwise.confusion(examples["labels"], prediction, len(record["classes"]))


def headline(scores: dict[str, Score]) -> dict[str, Score]:
    """The scores without the members of suites, whose results are intermediate steps of the suite's result."""
    return {attack: score for attack, score in scores.items() if not results.is_member(attack)}


def strongest(scores: dict[str, Score]) -> str:
    """The attack with the lowest accuracy, without members of suites; "clean" if there is no other.

    If several have the same accuracy, a suite is preferred, and otherwise the first one.
    """
    candidates = headline(scores) or scores
    attacked = [attack for attack in candidates if attack != "clean"] or list(candidates)
    return min(attacked, key=lambda a: (scores[a].summary.accuracy or 0, "members" not in scores[a].record))


def _scores(records: Iterable[dict]) -> dict[Checkpoint, dict[str, Score]]:
    """By checkpoint in order of step, raw weights before averaged ones, then by attack in the order of the file."""
    by_checkpoint = {}
    for record in records:
        checkpoint = Checkpoint(record["step"], record["weights"])
        by_checkpoint.setdefault(checkpoint, {})[record["attack"]] = Score.of(record)
    return {c: by_checkpoint[c] for c in sorted(by_checkpoint, key=lambda c: (c.step, c.weights != "raw"))}


def facts(config: dict, origin: dict | None) -> list[tuple[str, str]]:
    """Short facts about a run, as (name, text). Facts that the config does not contain are left out.

    Args:
        origin: as of `Run`.
    """
    if not config:
        return []
    changes, origin = _changes(origin)
    cosine = " with a cosine head" if field(config, "model.head") == "cosine" else ""
    facts = {
        "data": _data(config),
        "model": (field(config, "model.name") or "") + cosine,
        "threat": _threat(field(config, "threat", {})),
    }
    if origin:
        facts["weights"] = f"imported from {origin['file']} (SHA-256 {origin['sha256'][:12]})"
    else:
        facts |= {
            "objective": field(config, "objective.name"),
            "remedy": field(config, "remedy.name"),
            "training": _training(config),
        }
    facts["after training"] = "; then ".join(map(_change, changes))
    return [(name, fact) for name, fact in facts.items() if fact]


def _training(config: dict) -> str:
    said = f"{field(config, 'train.epochs')} epochs, seed {field(config, 'train.seed')}"
    factor = field(config, "attack.radius", 1.0)
    attacked = field(config, "objective.name") != "standard"
    return f"{said}, attacks of {factor:g} times the threat's radius" if attacked and factor != 1 else said


def _data(config: dict) -> str | None:
    parts = [field(config, "data.name")]
    for what, written in (("drop", "without"), ("merge", "merged"), ("shares", "shares in training")):
        if classes := field(config, f"data.{what}"):
            parts.append(f"{written} {', '.join(classes)}")
    if (profile := field(config, "data.imbalance", "none")) != "none":
        parts.append(f"{profile} imbalance of ratio {field(config, 'data.imbalance_ratio'):g} in training")
    return ", ".join(parts) if parts[0] else None


def _changes(origin: dict | None) -> tuple[list[dict], dict | None]:
    """The changes made to the head after training, in order, and the origin of the weights before the first change.

    That origin is None if the weights were trained here.
    """
    changes = []
    while origin is not None and "remedy" in origin:
        changes.insert(0, origin)
        origin = origin.get("origin")
    return changes, origin


def _change(origin: dict) -> str:
    values = origin["settings"] | origin["chosen"]
    short = [f"{name} = {value}" for name, value in values.items() if isinstance(value, bool | int | float | str)]
    of = f"the {origin['weights']} weights of step {origin['step']} of {origin['run']}"
    return f"{origin['remedy']} on {of}" + (f" ({', '.join(short)})" if short else "")


def _threat(threat: dict) -> str | None:
    if not threat:
        return None
    eps = threat.get("eps") if threat.get("eps") is not None else threat.get("eps_255", 0) / 255
    return f"{formatting.norm(threat.get('norm'))} ball of radius {formatting.radius(eps, threat.get('norm'))}"


def unequal(count: Iterable[int]) -> bool:
    """Whether classes differ in their number of examples, so that balanced and plain accuracy are different figures."""
    return len(set(count) - {0}) > 1


def classes_of(scores: dict[str, Score]) -> tuple[list[str], list[int]]:
    """Names of the classes, and how many examples each has."""
    record = next(iter(scores.values())).record
    return record["classes"], record["count"]


def field(config: dict, dotted: str, default=None):
    """A field of nested dicts by its dotted name."""
    for name in dotted.split("."):
        if not isinstance(config, dict) or name not in config:
            return default
        config = config[name]
    return config
