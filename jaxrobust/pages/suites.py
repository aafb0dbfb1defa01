"""What strong attacks say of the classes: how sure the worst one is, and what each stage of a suite took.

`class_truth` is classes.json, and the sections of the report that `page` prepares say the same in figures and words.
"""

import re
from collections.abc import Sequence

import markupsafe
import numpy as np

from jaxrobust import classwise, pages, results, runs
from jaxrobust.attacks import suites
from jaxrobust.errors import FieldError
from jaxrobust.figures import suites as figures_suites

_PGD = re.compile(r"(?:.*/)?pgd([1-9]\d*)")


def class_truth(scores: dict[str, runs.Score], examples: dict) -> dict:
    """What is known of the classes of a checkpoint, as JSON data.

        confidence   of every interval
        strongest    name of the attack that leaves the lowest accuracy
        classes      names, [C]
        count        examples of each, [C]
        attacks      by name, without members of suites: accuracy, interval, balanced_accuracy, balanced_interval,
                     correct [C], class_accuracy [C], class_interval [C][2], and worst, see `worst_of`
        suites       by name: stages, see `stages`, and loss, see `loss`, or null where there is none

    Accuracies, losses and intervals are fractions; null for a class without examples.

    Args:
        scores: of the checkpoint, by attack.
        examples: the arrays of its examples file; without them no loss can be told.
    """
    names, count = runs.classes_of(scores)
    return {
        "confidence": runs.CONFIDENCE,
        "strongest": runs.strongest(scores),
        "classes": names,
        "count": count,
        "attacks": {attack: _attack(score) for attack, score in runs.headline(scores).items()},
        "suites": {
            suite: {"stages": stages(scores, suite), "loss": loss(scores, examples, suite)}
            for suite in scores
            if scores[suite].record.get("members")
        },
    }


def _attack(score: runs.Score) -> dict:
    return {
        "accuracy": score.summary.accuracy,
        "interval": list(score.interval),
        "balanced_accuracy": score.summary.balanced_accuracy,
        "balanced_interval": score.balanced_interval and list(score.balanced_interval),
        "correct": score.record["correct"],
        "class_accuracy": list(score.summary.class_accuracy),
        "class_interval": [list(interval) for interval in score.class_interval],
        "worst": worst_of(score.record["correct"], score.record["count"], score.class_names),
    }


def worst_of(correct, count, class_names: Sequence[str], confidence: float = runs.CONFIDENCE) -> dict:
    """What is known of the worst class, as JSON data; see `classwise.worst_class` and `classwise.probability_worst`.

        classes      names of those with the lowest accuracy
        accuracy     that accuracy
        interval     of the accuracy of the class that is truly the worst
        candidates   name and probability of the classes that may be that, lowest accuracy first
        probability  of each class to be the worst, [C]

    Args:
        correct, count: integers [C].
        class_names: C names.
        confidence: of the interval and of the candidates.
    """
    worst = classwise.worst_class(correct, count, confidence)
    probability = classwise.probability_worst(correct, count).round(4).tolist()
    return {
        "classes": [class_names[c] for c in worst.classes],
        "accuracy": worst.accuracy,
        "interval": [worst.low, worst.high],
        "candidates": [{"name": class_names[c], "probability": probability[c]} for c in worst.candidates],
        "probability": probability,
    }


def stages(scores: dict[str, runs.Score], suite: str) -> list[dict]:
    """What each member of a suite left, in order.

        attack       its name
        settings     what it does, in words
        accuracy     after it
        balanced_accuracy    likewise
        worst        names of the classes with the lowest accuracy after it
        worst_class_accuracy
        broken       number of examples that withstood the members before it and not it; null without a clean result
        passes, idle, seconds    its cost, see `results.make_record`
        passes_in_full    if all that it is given were attacked to the end, in all runs, as far as that is known

    A member whose result is not there is left out.
    """
    before, rows = scores.get("clean"), []
    in_full = _passes_in_full(suite, scores[suite].record)
    for member in scores[suite].record["members"]:
        score = scores.get(f"{suite}/{member}")
        if score is None:
            continue
        record = score.record
        worst = classwise.worst_class(record["correct"], record["count"])
        rows.append(
            {
                "attack": member,
                "settings": in_words(member, record),
                "accuracy": score.summary.accuracy,
                "balanced_accuracy": score.summary.balanced_accuracy,
                "worst": [score.class_names[c] for c in worst.classes],
                "worst_class_accuracy": worst.accuracy,
                "broken": None if before is None else sum(before.record["correct"]) - sum(record["correct"]),
                "passes": record["passes"],
                "passes_in_full": before and in_full.get(member) and before.summary.accuracy * in_full[member],
                "idle": record["idle"],
                "seconds": record["seconds"],
            }
        )
        before = score
    return rows


def _passes_in_full(suite: str, record: dict) -> dict[str, float]:
    """Passes of each member for an example that withstands it; empty for a suite that goes by another name here."""
    try:
        members = suites.parse(suite, record["norm"]).members
    except FieldError:
        return {}
    return {spec.name: spec.passes(record["norm"], len(record["classes"])) for spec in members}


def in_words(attack: str, record: dict) -> str:
    """The settings of an attack's result; what a small number of classes makes of it included."""
    steps, restarts, targets, climbed = (record.get(name) for name in ("steps", "restarts", "targets", "loss"))
    wrong = len(record["classes"]) - 1
    unit = "queries" if attack.startswith("square") else "steps"
    words = [f"{steps:,} {unit}"] if steps else []
    if (restarts or 1) > 1:
        words.append(f"{restarts} restarts")
    if climbed:
        words.append(f"{climbed.replace('_', ' ')} loss")
        if re.match("apgd_(dlr|t)", attack) and "dlr" not in climbed:
            words.append("as the DLR loss needs three classes")
    if targets == 1 == wrong:
        words.append("towards the one wrong class")
    elif targets:
        words.append(f"towards {f'all {wrong}' if targets == wrong else f'the {targets} most likely'} wrong classes")
    return ", ".join(words)


def loss(scores: dict[str, runs.Score], examples: dict, suite: str) -> dict | None:
    """What a suite takes from each class beyond PGD, as JSON data; see `classwise.attack_loss`.

        before         name of the PGD attack: of those scored the one of most steps, or a first member that is one
        classes        arrays [C]: before and after (accuracies), loss, interval [C][2], lost and gained (examples)
        average        the same over all examples
        worst_before, worst_after    names of the classes with the lowest accuracy
        worst_changed  whether none of them is the same

    None without a PGD attack, or without the verdicts of both on each example.
    """
    first = f"{suite}/{scores[suite].record['members'][0]}"
    tried = [attack for attack in (*runs.headline(scores), first) if attack in examples and _PGD.fullmatch(attack)]
    if not tried or suite not in examples:
        return None
    before = max(tried, key=lambda attack: int(_PGD.fullmatch(attack)[1]))
    names, _ = runs.classes_of(scores)
    labels, survives = examples["labels"], (examples[before], examples[suite])
    taken = classwise.attack_loss(labels, *survives, len(names), runs.CONFIDENCE)
    overall = classwise.attack_loss(np.zeros_like(labels), *survives, 1, runs.CONFIDENCE)
    return {
        "before": before,
        "classes": _columns(taken, labels, survives),
        "average": {name: values[0] for name, values in _columns(overall, np.zeros_like(labels), survives).items()},
        "worst_before": [names[c] for c in taken.worst_before],
        "worst_after": [names[c] for c in taken.worst_after],
        "worst_changed": taken.worst_changed,
    }


def _columns(taken: classwise.AttackLoss, labels, survives) -> dict[str, list]:
    num_classes = len(taken.loss)
    count = classwise.class_counts(labels, num_classes)
    before, after = (
        classwise.class_accuracy(classwise.correct_counts(labels, flags, num_classes), count) for flags in survives
    )
    columns = {
        "before": before,
        "after": after,
        "loss": taken.loss,
        "interval": np.stack([taken.low, taken.high], 1),
        "lost": taken.lost,
        "gained": taken.gained,
    }
    return {name: plain(values) for name, values in columns.items()}


def plain(value):
    """A number or an array as JSON has it; None for nan."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if value != value else value


def floats(values) -> np.ndarray:
    """An array with nan for None: the way back from `plain`."""
    return np.array([np.nan if value is None else value for value in values], float)


def page(truth: dict) -> dict:
    """What the template `suites.html` shows: `class_truth`, rows in order, and figures as SVG."""
    of = truth["attacks"][truth["strongest"]]
    shown = {}
    for suite, content in truth["suites"].items():
        shown[suite] = content | {
            "total": results.total_work(content["stages"]),
            "broken": _sum(content["stages"], "broken"),
            "passes_in_full": _sum(content["stages"], "passes_in_full"),
            "rows": _rows(truth, content["loss"]),
            "figure": _loss_figure(truth["classes"], content["loss"], suite),
        }
    return truth | {"worst": of["worst"], "worst_figure": _worst_figure(truth, of), "suites": shown}


def _rows(truth: dict, loss: dict | None) -> list[dict]:
    """The classes with examples, that with the largest loss first."""
    if loss is None:
        return []
    columns = {"name": truth["classes"], "examples": truth["count"]} | loss["classes"]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return sorted((row for row in rows if row["examples"]), key=lambda row: -row["loss"])


def _sum(rows: list[dict], name: str):
    """Sum of a column; None where an entry is unknown."""
    values = [row[name] for row in rows]
    return None if None in values else sum(values)


def _worst_figure(truth: dict, of: dict) -> markupsafe.Markup | None:
    candidates = classwise.worst_class(of["correct"], truth["count"], truth["confidence"]).candidates
    if not candidates:
        return None
    figure = figures_suites.worst_class(
        truth["classes"],
        floats(of["class_accuracy"]),
        *np.array(of["class_interval"]).T,
        of["worst"]["interval"],
        of["worst"]["probability"],
        candidates,
    )
    return pages.figure(figure)


def _loss_figure(names, loss: dict | None, suite: str) -> markupsafe.Markup | None:
    if loss is None or not loss["worst_after"]:
        return None
    columns = loss["classes"]
    values = [floats(columns[name]) for name in ("before", "after", "loss")]
    losses = figures_suites.Losses(*values, *np.array(columns["interval"]).T)
    return pages.figure(figures_suites.attack_losses(names, losses, loss["before"], suite))
