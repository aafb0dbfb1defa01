"""The files of an audit, and the figures computed from its arrays.

    audit/<step>-<weights>-<split>.npz
                  labels [N], index [N] of each example in the split, prediction [N] without an attack;
                  breaking_radius [N]: the smallest radius of the curve, in pixel units, at which the example is not
                  robust; 0 if it is misclassified without an attack, infinite if it is robust at every radius.
                  curve_low, curve_high [N]: the limits of the search for it, as indices of radii;
                  targets [N, T]: the targets of the targeted attacks on the example, most likely first;
                  reached [N, T]: whether its prediction became that class, or was that class without an attack;
                  probe_<name> [N]: masking.Probes of the example; survives_<experiment> [N]: whether it is classified
                  correctly, clean and in the experiment, see masking.EXPERIMENTS;
                  for each part NAME also NAME_state: JSON with its settings, its cost, and what is left to do.
    audit.json    the figures of the last audit, see `figures`

Rates are fractions of all examples of a class. Radii are in pixel units. null stands for a radius beyond the largest
one tried, and for an unknown rate. Intervals are [low, high], 95 %, each for one figure unless stated otherwise.
"""

import dataclasses
import json
import pathlib
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
from msgspec import Meta

from jaxrobust import classwise, files
from jaxrobust.attacks import masking
from jaxrobust.classwise import CONFIDENCE, curve, focus, matrix
from jaxrobust.distributed import parallel
from jaxrobust.errors import UserError
from jaxrobust.evaluation import signs
from jaxrobust.runs import results
from jaxrobust.runs.schemas import Amount, Count, Interval, Share, SplitName, WeightsName


class Half(TypedDict):
    radius: Amount | None
    class_radius: list[Amount | None]
    class_interval: list[Interval]


class Curve(TypedDict):
    radii: Annotated[list[Amount], Meta(min_length=1)]
    correct: list[list[Count]]
    accuracy: list[Share | None]
    interval: list[Interval]
    class_accuracy: list[list[Share | None]]
    class_interval: list[list[Interval]]
    worst_class: list[str | None]
    worst_class_accuracy: list[Share | None]
    half: Half
    attack: str
    members: list[str]


class Pair(TypedDict):
    source: str
    target: str
    share: Share
    turned: Count
    of: Count
    interval: Interval | None
    average: NotRequired[Share]


class Asymmetry(TypedDict):
    source: str
    target: str
    share: Share
    back: Share


class Matrix(TypedDict):
    complete: bool
    ease: list[Share | None]
    exposure: list[Share | None]
    easiest_targets: list[str]
    most_exposed: list[str]
    pairs: list[Pair]
    asymmetric: list[Asymmetry]
    missed_by_curve: Count
    share: NotRequired[list[list[Share | None]]]
    attack: str


class Target(TypedDict):
    target: str
    chosen_on: str
    success: Share
    average: Share
    gain: float
    interval: Interval
    simultaneous: bool


class Masking(TypedDict):
    findings: list[TypedDict("Sign", signs.Sign.__annotations__)]
    accuracy: dict[str, Share | None]


class Audit(TypedDict):
    """What is read of audit.json, see `figures` for all of it."""

    step: Count
    epoch: Count
    weights: WeightsName
    split: SplitName
    classes: list[str]
    whole: Count
    norm: str
    eps: Amount
    examples: Count
    count: list[Count]
    curve: Curve
    matrix: Matrix
    focused: TypedDict("Focused", {"class": Target | None, "pair": Pair | None})
    masking: Masking | None
    checksum: NotRequired[int | None]


def audit_problem(audit: Audit) -> str | None:
    """How parts of audit.json contradict each other; None if they do not."""
    curve, matrix, classes = audit["curve"], audit["matrix"], len(audit["classes"])
    half, radii = curve["half"], len(curve["radii"])
    by_radius = ("correct", "accuracy", "interval", "class_accuracy", "class_interval", "worst_class")
    by_radius = {f"curve.{name}": curve[name] for name in (*by_radius, "worst_class_accuracy")}
    by_class = ("correct", "class_accuracy", "class_interval")
    rows = {f"curve.{name}, row {r}": row for name in by_class for r, row in enumerate(curve[name])}
    rows |= {"count": audit["count"], "half": half["class_radius"], "half.class_interval": half["class_interval"]}
    rows |= {name: matrix[name] for name in ("ease", "exposure", "share") if name in matrix}
    rows |= {f"share, row {c}": row for c, row in enumerate(matrix.get("share", ()))}
    for length, of in ((radii, by_radius), (classes, rows)):
        for name, values in of.items():
            if len(values) != length:
                return f"{name} has {len(values)} entries, not {length}"
    if audit["eps"] not in curve["radii"]:
        return f"eps = {audit['eps']} is none of the radii"
    if sum(audit["count"]) != audit["examples"] or (np.array(curve["correct"]) > audit["count"]).any():
        return "the counts do not fit the number of examples"
    named = {*matrix["easiest_targets"], *matrix["most_exposed"]} - {*audit["classes"]}
    return f"{min(named)} is none of the classes" if named else None


AUDIT = results.JsonFile("audit.json", Audit, audit_problem)


class Within(TypedDict):
    member: Count
    todo: list[Count] | None
    prediction: list[int]


class State(TypedDict):
    """What is kept of a part of an audit beside its arrays."""

    settings: dict[str, Any]
    seconds: Amount
    passes: NotRequired[Amount]
    idle: NotRequired[Amount]
    round: NotRequired[Count]
    within: NotRequired[Within | None]


def arrays_problem(arrays: dict) -> str | None:
    """How the arrays of an audit contradict each other; None if they do not."""
    labels = arrays.get("labels")
    if arrays and (labels is None or labels.ndim != 1):
        return "it has no labels"
    for name, array in arrays.items():
        if name != "checksum" and not name.endswith("_state") and array.shape[:1] != labels.shape:
            return f"{name} is {list(array.shape)}, for {len(labels)} labels"
        if name in ("labels", "index", "targets", "curve_low", "curve_high") and (array < 0).any():
            return f"{name} is negative"
    return None


FOLDER = "audit"
LISTED = 10  # length of lists of class pairs
# With more classes, the matrices would take megabytes of text; the arrays have the data for them.
MATRIX_CLASSES = 100


@dataclasses.dataclass
class Store:
    """The arrays of one (step, weights, split), and the state of its parts."""

    workdir: pathlib.Path
    step: int
    weights: str
    split: str

    @property
    def path(self) -> pathlib.Path:
        return pathlib.Path(self.workdir) / FOLDER / f"{self.step}-{self.weights}-{self.split}.npz"

    def read(self) -> dict:
        """All arrays; empty if there is no file. Raises UserError if they contradict each other."""
        arrays = results.read_arrays(self.path)
        if problem := arrays_problem(arrays):
            raise UserError(f"{self.path} contradicts itself ({problem}); remove it, and run jaxrobust audit")
        return arrays

    def part(self, name: str, settings: dict, names: tuple[str, ...]) -> tuple[dict, dict] | None:
        """(state, arrays of these names) of a part with exactly these settings; None if there is none."""
        arrays = self.read()
        if not {f"{name}_state", *names} <= {*arrays}:
            return None
        where, remedy = f"{self.path}, {name}_state", "remove the file, and run jaxrobust audit"
        state = files.parsed(str(arrays[f"{name}_state"]).encode(), where, State, lambda state: None, remedy)
        if state["settings"] != settings:
            return None
        return state, {n: arrays[n] for n in names}

    def keep(self, name: str, state: dict, arrays: dict) -> None:
        """Add a part's state and arrays to the file, which is replaced atomically, on process 0."""
        if parallel.is_writer():
            results.add_arrays(self.path, arrays | {f"{name}_state": np.array(json.dumps(state))})


def figures(arrays: dict, states: dict, about: dict, validation: dict | None) -> dict:
    """The content of audit.json.

    Args:
        arrays: as in the module docstring.
        states: of the parts "curve" and "matrix": dicts with `settings`, `passes`, `idle` and `seconds`.
        about: step, epoch, weights, split, classes, whole (examples of the split), norm, eps.
        validation: the record of results.jsonl that tells the weakest class beforehand; None if there is none.

    Returns:
        `about`, examples, count [C], and
        curve: see `curve_figures`;
        matrix: see `matrix_figures`;
        focused: see `focused_figures`;
        masking: see `masking_figures`; None if it was not examined.
    """
    labels, names = arrays["labels"], about["classes"]
    count = classwise.class_counts(labels, len(names))
    work = {name: _work(state, len(labels)) for name, state in states.items()}
    of_curve = curve_figures(labels, arrays["breaking_radius"], states["curve"]["settings"]["radii"], names)
    counts = matrix.targeted_counts(labels, arrays["targets"], arrays["reached"], len(names))
    of_matrix = matrix_figures(counts, names)
    turned_only = arrays["reached"].any(1) & (arrays["breaking_radius"] > about["eps"])
    at_threat = of_curve["radii"].index(about["eps"])
    score = classwise.Score(of_curve["correct"][at_threat], count, names)
    return about | {
        "examples": len(labels),
        "count": count.tolist(),
        "curve": of_curve | work["curve"],
        "matrix": of_matrix | {"missed_by_curve": int(turned_only.sum())} | work["matrix"],
        "focused": focused_figures(score, counts, validation, about["split"]),
        "masking": masking_figures(arrays, names, work) if "probe_correct" in arrays else None,
    }


def masking_figures(arrays: dict, names, work: dict) -> dict:
    """Signs of gradient masking.

    Returns:
        findings: check, where, value, threshold and message of each, see signs.Sign;
        accuracy: the accuracy under each experiment, by name;
        passes, seconds: the cost of all experiments.
    """
    probes = masking.Probes(*(arrays[f"probe_{field}"] for field in masking.Probes._fields))
    is_robust = {e.name: arrays[f"survives_{e.name}"] for e in masking.EXPERIMENTS}
    return {
        "findings": [sign._asdict() for sign in signs.signs(arrays["labels"], names, probes, is_robust)],
        "accuracy": {name: float(flags.mean()) for name, flags in is_robust.items()},
        "passes": sum(work[name]["passes"] for name in is_robust),
        "seconds": sum(work[name]["seconds"] for name in is_robust),
    }


def _work(state, examples) -> dict:
    """The attack of a part and its cost: passes per example, the idle share of them, and seconds."""
    share = state["idle"] / state["passes"] if state["passes"] else 0.0
    return {
        "attack": state["settings"]["attack"],
        "members": state["settings"]["members"],
        "passes": round(state["passes"] / examples, 3),
        "idle": round(share, 4),
        "seconds": round(state["seconds"], 3),
    }


def curve_figures(labels, breaking, radii, names) -> dict:
    """The security curve.

    Returns:
        radii [R]: 0 and those tried; correct [R][C]: number of examples that are robust at each;
        accuracy [R], its interval [R], class_accuracy [R][C], class_interval [R][C];
        worst_class, worst_class_accuracy [R];
        half: the smallest radius at which the accuracy is 50 % or less (the median breaking radius), overall and per
            class: radius, interval, class_radius [C], class_interval [C].
    """
    radii = [0.0, *radii]
    correct = curve.correct_by_radius(labels, breaking, radii, len(names))
    count = classwise.class_counts(labels, len(names))
    scores = [classwise.Score(row, count, names) for row in correct]
    half = curve.median_radius(breaking, CONFIDENCE)
    halves = [curve.median_radius(breaking[labels == c], CONFIDENCE) for c in range(len(names))]
    return {
        "radii": radii,
        "correct": correct.tolist(),
        "accuracy": [score.accuracy for score in scores],
        "interval": [score.interval for score in scores],
        "class_accuracy": [score.class_accuracy for score in scores],
        "class_interval": [score.class_interval for score in scores],
        "worst_class": [score.worst_name for score in scores],
        "worst_class_accuracy": [score.worst_class_accuracy for score in scores],
        "half": files.nullable(
            {
                "radius": half.value,
                "interval": [half.low, half.high],
                "class_radius": [h.value for h in halves],
                "class_interval": [[h.low, h.high] for h in halves],
            }
        ),
    }


def matrix_figures(counts: matrix.TargetedCounts, names) -> dict:
    """The class-to-class matrix; rows are true classes, columns targets.

    Returns:
        complete: whether every example was attacked with every other class as target. If not, rates are lower bounds:
            attacks that were not tried count as failed.
        tried, turned [C][C]: numbers of examples;
        share [C][C], its interval [C][C]: null if not every example of the class was attacked with the target;
        ease [C]: of each class as a target, the mean of its column; exposure, mean_exposure [C]: of each class, the
            share of it that is turned into at least one other class, and the mean of its row;
        easiest_targets, most_exposed: class names, largest value first;
        pairs: the pairs with the largest rates: source, target, share, turned, of, interval;
        missed_by_curve: number of examples that are turned into another class although they are robust to the curve's
            attack at the threat radius; the robust accuracy there is too high by so many;
        asymmetric: the pairs with the largest difference between both directions: source, target, share, back.
        With more than 100 classes the matrices are left out.
    """
    summary = matrix.matrix_summary(counts, CONFIDENCE)
    share = summary.share
    order = _descending(summary.at_least)[:LISTED]
    lean = _descending(np.where(summary.asymmetry > 0, summary.asymmetry, np.nan))[:LISTED]
    content = {
        "complete": counts.complete,
        "ease": files.nullable(summary.ease),
        "exposure": files.nullable(summary.exposure),
        "mean_exposure": files.nullable(summary.mean_exposure),
        "easiest_targets": [names[c] for (c,) in _descending(summary.ease)],
        "most_exposed": [names[c] for (c,) in _descending(summary.exposure)],
        "pairs": [_pair(counts, summary, names, i, j) for i, j in order],
        "asymmetric": [
            {"source": names[i], "target": names[j], "share": float(share[i, j]), "back": float(share[j, i])}
            for i, j in lean
        ],
    }
    if len(names) <= MATRIX_CLASSES:
        content |= {
            "tried": counts.tried.tolist(),
            "turned": counts.turned.tolist(),
            "share": files.nullable(share),
            "interval": files.nullable(np.stack([summary.low, summary.high], -1)),
        }
    return content


def _pair(counts, summary, names, i, j) -> dict:
    low, high = files.nullable([summary.low[i, j], summary.high[i, j]])
    return {
        "source": names[i],
        "target": names[j],
        "share": float(summary.at_least[i, j]),
        "turned": int(counts.turned[i, j]),
        "of": int(counts.count[i]),
        "interval": None if low is None else [low, high],
    }


def focused_figures(score: classwise.Score, counts: matrix.TargetedCounts, validation, split) -> dict:
    """An attacker who attacks only the weakest class, and one who picks a pair of classes.

    Args:
        score: at the threat radius.
        validation: as in `figures`.
        split: of the counts.

    Returns:
        class: the attacker of the weakest class; null without one;
            target: the class; chosen_on, chosen_by: the split and attack by which it was chosen;
            success, average: the share of the class, and of all images, that is not robust; gain, its interval;
            simultaneous: the class was chosen on the same images, so the interval holds for all classes at once.
        pair: the attacker who turns one class into another; null without one;
            source, target, share; average: over all pairs; interval: for all pairs at once, null if only a lower bound
            of the share is known.
    """
    known, names = None, score.class_names
    if validation is not None:
        # Classes that one of the splits does not have are left out.
        there = (score.count > 0) * np.array(validation["count"])
        known = classwise.Score(np.minimum(validation["correct"], there), there).worst_class
    worst = score.worst_class if known is None else known
    one = None
    if worst is not None:
        here = known is None
        found = focus.focused_attack(score.correct, score.count, worst, chosen_here=here, confidence=CONFIDENCE)
        one = {
            "target": names[found.target],
            "chosen_on": split if here else validation["split"],
            "chosen_by": None if here else validation["attack"],
            "success": found.success,
            "average": found.average,
            "gain": found.gain,
            "interval": [found.low, found.high],
            "simultaneous": here,
        }
    return {"class": one, "pair": _strongest_pair(counts, names)}


def _strongest_pair(counts, names) -> dict | None:
    summary = matrix.matrix_summary(counts)
    pair = summary.strongest_pair()
    if pair is None:
        return None
    cells = int((~np.isnan(summary.at_least)).sum())
    together = matrix.matrix_summary(counts, 1 - (1 - CONFIDENCE) / cells)
    return _pair(counts, together, names, *pair) | {"average": float(np.nanmean(summary.at_least))}


def _descending(values) -> list[tuple[int, ...]]:
    """Indices of the values that are not nan, in descending order of value; equal values in order of position."""
    flat = np.ravel(values)
    order = np.argsort(-flat, kind="stable")  # nan last
    return [tuple(int(i) for i in np.unravel_index(k, values.shape)) for k in order if not np.isnan(flat[k])]
