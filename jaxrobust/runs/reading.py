"""Reading a run from the files of its workdir: its checkpoints, and the score of each under each attack."""

from collections.abc import Iterable

import numpy as np

from jaxrobust import classwise, files, formatting
from jaxrobust.errors import FieldError, listed
from jaxrobust.runs import history, results
from jaxrobust.runs.history import Checkpoint
from jaxrobust.runs.results import Result


class RunFiles:
    """The files of a workdir, read once.

    Attributes:
        scores: {(step, weights): {attack: Result}} of `split`, in order of step.
        split: the requested split; without a request, test if it was scored, else validation.
        config: content of config.json.
        best: content of best.json; None if the file is missing.
        origin: content of weights.json, which exists for imported weights and for a head changed after training;
            None otherwise.
        training: lines of training.jsonl.
        data: content of data.json; None if the file is missing.
        validation_examples: number of scored validation examples; 0 if that split was not scored.

    Raises:
        UserError: the folder is not a workdir, has no results (of the split), a file that cannot be read or contradicts
            another, or results of other weights than those of the checkpoint that is there.
    """

    def __init__(self, workdir, split: str | None = None):
        def wrong(problem, remedy):
            return FieldError("workdir", str(workdir), problem, remedy)

        self.workdir = files.folder(workdir, "workdir")
        if not self.workdir.is_dir():
            raise wrong("there is no such folder", "give that of a run")
        self.config = history.read_config(self.workdir) or {}
        records = results.read(self.workdir)
        self.training = results.read_training(self.workdir)
        self.best = results.BEST.read(self.workdir)
        self.origin = results.ORIGIN.read(self.workdir)
        self.data = results.DATA.read(self.workdir)
        if not records:
            raise wrong(f"has no {results.RESULTS} with results yet", "run jaxrobust evaluate first")
        for name, said in ((results.BEST, [self.best or {}]), (results.RESULTS, records)):
            if of := history.of_others(self.workdir, said):
                problem = f"{name} has results of other {of.weights} weights than the checkpoint of step {of.step} has"
                raise wrong(problem, "run jaxrobust evaluate, which makes them again")
        scored = {record["split"] for record in records}
        self.split = split or ("test" if "test" in scored else "validation")
        if self.split not in scored:
            raise FieldError("split", split, f"{workdir} has no results of it", listed(sorted(scored)))
        self.scores = _scores(record for record in records if record["split"] == self.split)
        validation = [record for record in records if record["split"] == "validation"]
        self.validation_examples = sum(validation[-1]["count"]) if validation else 0
        classes = records[-1]["classes"]
        lists = [line["train_class_accuracy"] for line in self.training if "train_class_accuracy" in line]
        if any(record["classes"] != classes for record in records) or any(len(of) != len(classes) for of in lists):
            problem = f"the lines of {results.RESULTS} and {results.TRAINING} are of different classes"
            raise wrong(problem, "remove those of another run")

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

    def over_training(self, attack: str, weights: str) -> list[Result]:
        """The scores of all checkpoints with these weights under one attack, in order of step."""
        return [scores[attack] for c, scores in self.scores.items() if c.weights == weights and attack in scores]

    def checksum(self, checkpoint: Checkpoint) -> int | None:
        """Of the weights that were scored; None if an earlier version has scored them."""
        return next(iter(self.scores[checkpoint].values())).record.get("checksum")

    def has(self, said: dict) -> bool:
        """Whether what is said of weights, with `step`, `weights` and `checksum`, is of weights of this run."""
        checkpoint = Checkpoint(said["step"], said["weights"])
        scored = self.checksum(checkpoint) if checkpoint in self.scores else None
        return results.belongs(said.get("checksum"), scored) and not history.of_others(self.workdir, [said])

    def examples(self, checkpoint: Checkpoint) -> dict:
        """The arrays of its examples file, of `split`; empty if there is none."""
        lines = {attack: score.record for attack, score in self.scores[checkpoint].items()}
        return results.read_examples(self.workdir, *checkpoint, self.split, lines)

    def confusion(self, checkpoint: Checkpoint, attack: str) -> np.ndarray | None:
        """Confusion counts [C, C] under an attack, from the results or the examples file; None if in neither."""
        record = self.scores[checkpoint][attack].record
        if record.get("confusion") is not None:
            return np.array(record["confusion"])
        examples = self.examples(checkpoint)
        prediction = examples.get(f"{attack}_prediction")
        if prediction is None:
            return None
        return classwise.confusion(examples["labels"], prediction, len(record["classes"]))


def headline(scores: dict[str, Result]) -> dict[str, Result]:
    """The scores without the members of suites, whose results are intermediate steps of the suite's result."""
    return {attack: score for attack, score in scores.items() if not results.is_member(attack)}


def strongest(scores: dict[str, Result]) -> str:
    """The attack with the lowest accuracy, without members of suites; "clean" if there is no other.

    If several have the same accuracy, a suite is preferred, and otherwise the first one.
    """
    candidates = headline(scores) or scores
    attacked = [attack for attack in candidates if attack != "clean"] or list(candidates)
    return min(attacked, key=lambda a: (scores[a].accuracy or 0, "members" not in scores[a].record))


def _scores(records: Iterable[dict]) -> dict[Checkpoint, dict[str, Result]]:
    """By checkpoint in order of step, raw weights before averaged ones, then by attack in the order of the file."""
    by_checkpoint = {}
    for record in records:
        checkpoint = Checkpoint(record["step"], record["weights"])
        by_checkpoint.setdefault(checkpoint, {})[record["attack"]] = Result.of(record)
    return {c: by_checkpoint[c] for c in sorted(by_checkpoint, key=lambda c: (c.step, c.weights != "raw"))}


def facts(config: dict, origin: dict | None) -> list[tuple[str, str]]:
    """Short facts about a run, as (name, text), of its config and `RunFiles.origin`; what the config does not contain
    is left out.
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


def classes_of(scores: dict[str, Result]) -> tuple[list[str], list[int]]:
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
