"""What the results of one checkpoint say about its classes: the content of classes.json.

For each attack: how accurate each class is, which class is the worst, and how certain that is. For each suite of
attacks: what each of its members contributed, and what the whole suite takes from each class beyond PGD. The section of
the report that shows the same is in reports/suites.py.
"""

import re

import numpy as np

from jaxrobust import classwise, files
from jaxrobust.attacks import suites
from jaxrobust.errors import FieldError
from jaxrobust.runs import reading
from jaxrobust.runs.results import Result

_PGD = re.compile(r"(?:.*/)?pgd([1-9]\d*)")


def class_truth(scores: dict[str, Result], examples: dict) -> dict:
    """The content of classes.json, as JSON data.

        confidence   confidence level of every interval
        strongest    name of the attack with the lowest accuracy
        classes      names, [C]
        count        number of examples of each class, [C]
        attacks      by name, without members of suites: accuracy, interval, balanced_accuracy, balanced_interval,
                     correct [C], class_accuracy [C], class_interval [C][2], and worst, see
                     `classwise.Score.worst_record`
        suites       by name: stages, see `stages`, and loss, see `loss`; loss is null if it cannot be computed

    Accuracies, losses and intervals are fractions, and null for a class without examples.

    Args:
        scores: the scores of the checkpoint, by attack.
        examples: the arrays of its examples file. The losses cannot be computed without them.
    """
    names, count = reading.classes_of(scores)
    return {
        "confidence": classwise.CONFIDENCE,
        "strongest": reading.strongest(scores),
        "classes": names,
        "count": count,
        "attacks": {attack: _attack(score) for attack, score in reading.headline(scores).items()},
        "suites": {
            suite: {"stages": stages(scores, suite), "loss": loss(scores, examples, suite)}
            for suite in scores
            if scores[suite].record.get("members")
        },
    }


def _attack(score: Result) -> dict:
    return {
        "accuracy": score.accuracy,
        "interval": list(score.interval),
        "balanced_accuracy": score.balanced_accuracy,
        "balanced_interval": score.balanced_interval and list(score.balanced_interval),
        "correct": score.record["correct"],
        "class_accuracy": list(score.class_accuracy),
        "class_interval": [list(interval) for interval in score.class_interval],
        "worst": score.worst_record(),
    }


def stages(scores: dict[str, Result], suite: str) -> list[dict]:
    """The state after each member of a suite, in the order in which they run, as JSON data.

        attack       name of the member
        settings     its settings, in words
        accuracy, balanced_accuracy    after this member and all before it
        worst, worst_class_accuracy    names of the classes with the lowest accuracy at that point, and that accuracy
        broken       number of examples that are robust to the earlier members and not to this one; null if it is the
                     first member and there is no clean result
        passes, idle, seconds    its cost, see `results.make_record`
        passes_in_full    forward passes per example if it attacked all its examples to the end, in all restarts;
                     null if unknown

    A member without a result is left out.
    """
    before, rows = scores.get("clean"), []
    in_full = _passes_in_full(suite, scores[suite].record)
    for member in scores[suite].record["members"]:
        score = scores.get(f"{suite}/{member}")
        if score is None:
            continue
        record = score.record
        rows.append(
            {
                "attack": member,
                "settings": in_words(member, record),
                "accuracy": score.accuracy,
                "balanced_accuracy": score.balanced_accuracy,
                "worst": [score.class_names[c] for c in score.worst.classes],
                "worst_class_accuracy": score.worst_class_accuracy,
                "broken": None if before is None else sum(before.record["correct"]) - sum(record["correct"]),
                "passes": record["passes"],
                "passes_in_full": before and in_full.get(member) and before.accuracy * in_full[member],
                "idle": record["idle"],
                "seconds": record["seconds"],
            }
        )
        before = score
    return rows


def _passes_in_full(suite: str, record: dict) -> dict[str, float]:
    """Forward passes that each member spends on an example that stays robust; empty if the suite's name is unknown."""
    try:
        members = suites.parse(suite, record["norm"]).members
    except FieldError:
        return {}
    return {spec.name: spec.passes(record["norm"], len(record["classes"])) for spec in members}


def in_words(attack: str, record: dict) -> str:
    """The settings of an attack, as recorded with its result. With few classes they can differ from the usual ones."""
    steps, restarts, targets, climbed = (record.get(name) for name in ("steps", "restarts", "targets", "loss"))
    words = (
        steps and f"{steps:,} {'queries' if attack.startswith('square') else 'steps'}",
        restarts and restarts > 1 and f"{restarts} restarts",
        climbed and f"{climbed.replace('_', ' ')} loss",
        targets and f"{targets} of {len(record['classes']) - 1} targets",
    )
    return ", ".join(filter(None, words))


def loss(scores: dict[str, Result], examples: dict, suite: str) -> dict | None:
    """How much lower the accuracy of each class is under a suite than under PGD, as JSON data.

        before         name of the PGD attack: the one with most steps, among those scored alone and the suite's first
                       member
        classes        arrays [C]: before and after (accuracies), loss, interval [C][2], lost and gained (examples)
        average        the same, over all examples together
        worst_before, worst_after    names of the classes with the lowest accuracy under PGD, and under the suite
        worst_changed  whether the two have no class in common

    Returns None if no PGD attack was scored, or if the arrays of either are missing.
    """
    first = f"{suite}/{scores[suite].record['members'][0]}"
    tried = [attack for attack in (*reading.headline(scores), first) if attack in examples and _PGD.fullmatch(attack)]
    if not tried or suite not in examples:
        return None
    before = max(tried, key=lambda attack: int(_PGD.fullmatch(attack)[1]))
    names, _ = reading.classes_of(scores)
    pairs = classwise.paired_counts(examples["labels"], examples[before], examples[suite], len(names))
    sides = (classwise.Score(correct, pairs.count, names) for correct in (pairs.correct_a, pairs.correct_b))
    worst_before, worst_after = (side.worst.classes for side in sides)
    return {
        "before": before,
        "classes": _columns(pairs),
        "average": {name: values[0] for name, values in _columns(pairs.total()).items()},
        "worst_before": [names[c] for c in worst_before],
        "worst_after": [names[c] for c in worst_after],
        "worst_changed": bool(worst_before) and not set(worst_before) & set(worst_after),
    }


def _columns(pairs: classwise.PairedCounts) -> dict[str, list]:
    columns = {
        "before": classwise.class_accuracy(pairs.correct_a, pairs.count),
        "after": classwise.class_accuracy(pairs.correct_b, pairs.count),
        "loss": 0 - classwise.paired_difference(pairs),
        "interval": np.stack(classwise.paired_interval(pairs.only_b, pairs.only_a, pairs.count), 1),
        "lost": pairs.only_a,
        "gained": pairs.only_b,
    }
    return files.nullable(columns)


def floats(values) -> np.ndarray:
    """Numbers from JSON as a float array of the same shape, nan in place of None; the inverse of `files.nullable`."""
    return np.array(values, float)  # numpy converts None to nan
