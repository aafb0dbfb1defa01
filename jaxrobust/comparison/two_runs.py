"""Two runs compared class by class, on the same images under the same attacks."""

import numpy as np

from jaxrobust import classwise
from jaxrobust.comparison.pairs import common_attacks, common_examples, notes_on_weights, open_runs, open_side
from jaxrobust.errors import UserError
from jaxrobust.runs import class_summary
from jaxrobust.runs.reading import field

CONFIDENCE = 0.95
LEVEL = 0.05  # of the tests, after Holm's correction


def compare_runs(
    run_a, run_b, *, split: str | None = None, attacks=(), weights: str = "best", step_a=None, step_b=None
) -> dict:
    """Compare two runs on the images that both were scored on. Returns JSON data; accuracies are fractions.

    Args:
        run_a, run_b: their workdirs.
        split: "test" or "validation"; by default test where both were scored on it.
        attacks: names; by default all that both were scored under.
        weights: "best": those that best.json names, else those of the last checkpoint, averaged ones if there are any;
            "raw"; "averaged".
        step_a, step_b: steps of other checkpoints.

    Raises:
        UserError: a workdir or its files cannot be read, or the two were not scored on the same images or attacks.
    """
    runs = open_runs((run_a, run_b), split)
    a = open_side("A", runs[0], weights, step_a)
    b = open_side("B", runs[1], weights, step_b)
    if a.run.workdir.resolve() == b.run.workdir.resolve() and a.checkpoint == b.checkpoint:
        raise UserError(f"{run_a} and {run_b} are the same checkpoint of the same run; give --step_a, --step_b or two")
    in_a, in_b = common_examples(a, b)
    names, notes = common_attacks(a, b, attacks)
    labels = a.examples["labels"][in_a]
    compared = {
        name: compare_verdicts(labels, a.examples[name][in_a], b.examples[name][in_b], a.class_names) for name in names
    }
    for side in (a, b):
        if labels.size < side.examples["labels"].size:
            total = side.examples["labels"].size
            notes.append(
                f"Of the {total:,} images that {side.letter} was scored on, {labels.size:,} are common to both."
            )
    notes += notes_on_weights((a, b))
    data = [field(side.run.config, "data.name") for side in (a, b)]
    if None not in data and data[0] != data[1]:
        notes.append(f"The data sets go by different names, {data[0]} and {data[1]}; their labels and classes agree.")
    return {
        "a": a.description(),
        "b": b.description(),
        "split": a.run.split,
        "examples": int(labels.size),
        "confidence": CONFIDENCE,
        "level": LEVEL,
        "headline": _headline(compared),
        "attacks": compared,
        "notes": notes,
    }


def compare_verdicts(labels, survives_a, survives_b, class_names) -> dict:
    """The figures of one attack.

    Args:
        labels: [N], integers.
        survives_a, survives_b: [N], whether each image is classified correctly under the attack.
    """
    pairs = classwise.paired_counts(labels, survives_a, survives_b, len(class_names))
    present = pairs.count > 0
    p_value = np.where(present, classwise.mcnemar_test(pairs.only_a, pairs.only_b), np.nan)
    columns = {
        "name": class_names,
        "examples": pairs.count,
        "a": classwise.class_accuracy(pairs.correct_a, pairs.count),
        "b": classwise.class_accuracy(pairs.correct_b, pairs.count),
        "only_a": pairs.only_a,
        "only_b": pairs.only_b,
        "difference": classwise.paired_difference(pairs),
        "interval": np.stack(classwise.paired_interval(pairs.only_a, pairs.only_b, pairs.count, CONFIDENCE), 1),
        "p_value": p_value,
        "p_holm": (corrected := classwise.holm_correction(p_value)),
        "significant": corrected <= LEVEL,
    }
    rows = [
        {name: class_summary.plain(value) for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]
    worst = classwise.worst_difference(pairs, CONFIDENCE)
    return {
        "average": _average(pairs.total()),
        "worst": {
            "a": class_summary.worst_of(pairs.correct_a, pairs.count, class_names),
            "b": class_summary.worst_of(pairs.correct_b, pairs.count, class_names),
            "difference": worst.difference,
            "interval": [worst.low, worst.high],
            "significant": not worst.low <= 0 <= worst.high,
        },
        "classes": rows,
    }


def _average(total: classwise.PairedCounts) -> dict:
    low, high = classwise.paired_interval(total.only_a, total.only_b, total.count, CONFIDENCE)
    p_value = float(classwise.mcnemar_test(total.only_a, total.only_b)[0])
    return {
        "a": float(total.correct_a[0] / total.count[0]),
        "b": float(total.correct_b[0] / total.count[0]),
        "only_a": int(total.only_a[0]),
        "only_b": int(total.only_b[0]),
        "difference": float(classwise.paired_difference(total)[0]),
        "interval": [float(low[0]), float(high[0])],
        "p_value": p_value,
        "significant": p_value <= LEVEL,
    }


def _headline(compared: dict) -> str:
    """The attack with the lowest accuracy; among equals the shortest name, so a suite comes before its members."""
    return min(compared, key=lambda name: (sum(compared[name]["average"][side] for side in "ab"), len(name)))
