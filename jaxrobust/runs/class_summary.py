"""What the results of one checkpoint say about its classes: the content of classes.json.

For each attack: how accurate each class is, which class is the worst, and how certain that is. For each suite of
attacks: what each of its members contributed, and what the whole suite takes from each class beyond PGD. The section of
the report that shows the same is in pages/suites.py.
"""

import re
from collections.abc import Sequence

import numpy as np

from jaxrobust import classwise
from jaxrobust.attacks import suites
from jaxrobust.errors import FieldError
from jaxrobust.runs import reading

_PGD = re.compile(r"(?:.*/)?pgd([1-9]\d*)")


def class_truth(scores: dict[str, reading.Score], examples: dict) -> dict:
    """The content of classes.json, as JSON data.

        confidence   confidence level of every interval
        strongest    name of the attack with the lowest accuracy
        classes      names, [C]
        count        number of examples of each class, [C]
        attacks      by name, without members of suites: accuracy, interval, balanced_accuracy, balanced_interval,
                     correct [C], class_accuracy [C], class_interval [C][2], and worst, see `worst_of`
        suites       by name: stages, see `stages`, and loss, see `loss`; loss is null if it cannot be computed

    Accuracies, losses and intervals are fractions, and null for a class without examples.

    Args:
        scores: the scores of the checkpoint, by attack.
        examples: the arrays of its examples file. The losses cannot be computed without them.
    """
    names, count = reading.classes_of(scores)
    return {
        "confidence": reading.CONFIDENCE,
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


def _attack(score: reading.Score) -> dict:
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


def worst_of(correct, count, class_names: Sequence[str], confidence: float = reading.CONFIDENCE) -> dict:
    """What is known about the worst class, as JSON data; see `classwise.worst_class` and `classwise.probability_worst`.

        classes      names of the classes with the lowest measured accuracy; several if they are equal
        accuracy     that accuracy
        interval     confidence interval for the accuracy of the class that is truly the worst
        candidates   classes that may truly be the worst, with name and probability, lowest accuracy first
        probability  for each class, the probability that it is the worst, [C]

    Args:
        correct, count: correct examples and all examples of each class, integers [C].
        class_names: C names.
        confidence: confidence level of the interval and of the candidates.
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


def stages(scores: dict[str, reading.Score], suite: str) -> list[dict]:
    """The state after each member of a suite, in the order in which they run, as JSON data.

        attack       name of the member
        settings     its settings, in words
        accuracy, balanced_accuracy    after this member and all before it
        worst, worst_class_accuracy    names of the classes with the lowest accuracy at that point, and that accuracy
        broken       number of examples that the earlier members did not break and this one did; null if it is the
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
    """Forward passes that each member spends on an example it never breaks; empty if the suite's name is unknown."""
    try:
        members = suites.parse(suite, record["norm"]).members
    except FieldError:
        return {}
    return {spec.name: spec.passes(record["norm"], len(record["classes"])) for spec in members}


def in_words(attack: str, record: dict) -> str:
    """The settings of an attack, as recorded with its result. With few classes they can differ from the usual ones."""
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


def loss(scores: dict[str, reading.Score], examples: dict, suite: str) -> dict | None:
    """How much lower the accuracy of each class is under a suite than under PGD, as JSON data.

        before         name of the PGD attack: the one with most steps, among those scored alone and the suite's first
                       member
        classes        arrays [C]: before and after (accuracies), loss, interval [C][2], lost and gained (examples)
        average        the same, over all examples together
        worst_before, worst_after    names of the classes with the lowest accuracy under PGD, and under the suite
        worst_changed  whether the two have no class in common

    Returns None if no PGD attack was scored, or if the per-example verdicts of either are missing. The statistics are
    those of `classwise.attack_loss`.
    """
    first = f"{suite}/{scores[suite].record['members'][0]}"
    tried = [attack for attack in (*reading.headline(scores), first) if attack in examples and _PGD.fullmatch(attack)]
    if not tried or suite not in examples:
        return None
    before = max(tried, key=lambda attack: int(_PGD.fullmatch(attack)[1]))
    names, _ = reading.classes_of(scores)
    labels, survives = examples["labels"], (examples[before], examples[suite])
    taken = classwise.attack_loss(labels, *survives, len(names), reading.CONFIDENCE)
    overall = classwise.attack_loss(np.zeros_like(labels), *survives, 1, reading.CONFIDENCE)
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
    """A number or an array as JSON data, with None in place of nan."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if value != value else value


def floats(values) -> np.ndarray:
    """Numbers from JSON as a float array of the same shape, with nan in place of None: the inverse of `plain`."""
    return np.array(values, float)  # numpy converts None to nan
