"""The trade-off table: the worst class and the average of each of many methods, compared with those of a base.

A method is the set of runs whose configs are equal except for the training seed and for settings that do not affect the
training. commands/compare.py is the command, reports/price_list.py shows the table.
"""

import functools
import re
import statistics

import numpy as np

from jaxrobust.classwise import Score, seeds
from jaxrobust.comparison import differences, methods
from jaxrobust.comparison.differences import HELPS, HURTS, NO_DIFFERENCE, Robust
from jaxrobust.comparison.pairs import (
    Side,
    check_distinct,
    common_attacks,
    common_examples,
    named_on_validation,
    notes_on_weights,
    open_runs,
    open_side,
)
from jaxrobust.errors import FieldError
from jaxrobust.runs import reading
from jaxrobust.runs.reading import RunFiles

ONLY_PGD = "only moves PGD"
_ITERATED = re.compile(r"(pgd|cw)(\d+)(?:x\d+)?")


def trade_off(workdirs, *, split: str | None = None, attacks=(), weights: str = "best") -> dict:
    """Every method among the runs against the method of the first, as JSON data; accuracies are fractions.

        base, judge, pgd   names of the base, of the deciding attack, and of the PGD attack beside it (or null)
        split, examples, classes, confidence, level, min_seeds, notes
        attacks            names of the attacks shown
        methods            the base, and then the others, the largest difference of the worst class under `judge` first:
            name, is_base, differs (field -> value, where it is not the base's), seeds, pairs, runs, covers_seeds
            attacks        by name: average and worst, each with accuracy, interval, difference, difference_interval,
                           p_value, p_holm, significant, verdict; worst.classes; rho
            verdicts       of pgd, of judge, and what to call it where they disagree, or null
            speed, training, pareto, cost_per_point

    Args:
        workdirs: at least two; the first is of the base.
        split: "test" or "validation"; by default test where all were scored on it.
        attacks: names; by default clean, the longest PGD (or CW) and the strongest suite that all were scored under.
        weights: one of `pairs.WEIGHTS`.

    Raises:
        UserError: a workdir or its files cannot be read, or the runs were not scored on the same images or attacks.
    """
    check_distinct(workdirs)
    sides = [open_side("", run, weights) for run in open_runs(workdirs, split)]
    found = methods.group([side.run for side in sides])
    if len(found) == 1:
        where = ", ".join(str(run.workdir) for run in found[0].runs)
        problem = f"all are seeds of one config, {found[0].name}"
        raise FieldError("workdir", where, problem, "give runs of another config, too")
    labels, by_run, notes = _on_common_images(sides)
    of_base = by_run[sides[0].run.workdir]
    names, left_out = _attacks(sides, of_base, attacks)
    decisive, pgd = _roles(sides[0], of_base, names)
    of_run = {side.run.workdir: side for side in sides}
    spreads = differences.spreads_of([[by_run[run.workdir] for run in method.runs] for method in found], names)
    pairs = [[], *(methods.pair(found[0], method) for method in found[1:])]
    under = {name: _under(name, found, pairs, labels, by_run, spreads[name], of_run) for name in names}
    rows = [
        _method(found[i], found[0], pairs[i], {name: under[name][i] for name in names}, of_run)
        for i in range(len(found))
    ]
    deciding = [row["attacks"][decisive]["worst"] for row in rows[1:]]
    tested = [
        of for row in rows[1:] for figures in row["attacks"].values() for of in (figures["average"], figures["worst"])
    ]
    differences.correct([deciding, [of for of in tested if all(of is not other for other in deciding)]])
    for row in rows:
        row["verdicts"] = verdicts_of(row["attacks"], decisive, pgd)
        row["cost_per_point"] = cost_per_point_of(row["attacks"][decisive])
    points = [[row["attacks"][decisive][figure]["accuracy"] for figure in ("average", "worst")] for row in rows]
    for row, on_front in zip(rows, differences.pareto_front(points), strict=True):
        row["pareto"] = bool(on_front)
    return {
        "base": found[0].name,
        "judge": decisive,
        "pgd": pgd,
        "split": sides[0].run.split,
        "examples": int(labels.size),
        "classes": len(sides[0].class_names),
        "confidence": differences.CONFIDENCE,
        "level": differences.LEVEL,
        "min_seeds": seeds.MIN_SEEDS,
        "attacks": names,
        "methods": [rows[0], *sorted(rows[1:], key=lambda row: -row["attacks"][decisive]["worst"]["difference"])],
        "notes": [
            *notes,
            *left_out,
            *notes_on_weights(sides),
            *_notes_on_seeds(found, rows),
            *_notes_on_names(rows, decisive),
        ],
    }


def _on_common_images(sides: list[Side]) -> tuple[np.ndarray, dict, list[str]]:
    """Of the images that all runs have: labels [N], each run's `Robust` by workdir and attack, and notes."""
    base, notes = sides[0], []
    matched = [common_examples(base, side) for side in sides]
    kept = functools.reduce(np.intersect1d, (in_base for in_base, _ in matched))
    if not kept.size:
        problem = f"shares no image of the {base.run.split} split with all others"
        raise FieldError("workdir", str(base.run.workdir), problem, "score all on the same")
    largest = max(side.examples["labels"].size for side in sides)
    if kept.size < largest:
        notes.append(f"Of up to {largest:,} images that a run was scored on, {kept.size:,} are common to all.")
    labels = base.examples["labels"][kept]
    by_run = {}
    for side, (in_base, in_side) in zip(sides, matched, strict=True):
        _, positions, _ = np.intersect1d(in_base, kept, return_indices=True)
        rows = in_side[positions]
        is_robust = {name: side.examples[name][rows] for name in side.scores if name in side.examples}
        by_run[side.run.workdir] = {
            name: Robust(flags, Score.of(labels, flags, side.class_names)) for name, flags in is_robust.items()
        }
    return labels, by_run, notes


def _attacks(sides: list[Side], of_base: dict[str, Robust], asked) -> tuple[list[str], list[str]]:
    """The attacks to show, and sentences about those left out."""
    base = sides[0]
    common, left_out = common_attacks(base, sides, asked or reading.headline(base.scores), bool(asked))
    if asked:
        return common, []
    return [name for name in common if name in ("clean", *_roles(base, of_base, common))], left_out


def _roles(base: Side, of_base: dict[str, Robust], names: list[str]) -> tuple[str, str | None]:
    """The attack that decides, the strongest suite or else attack, and the PGD attack to set beside it.

    That is the one of most steps, or beside a suite else such a CW attack; None where it decides or is not there.
    """
    suites = [name for name in names if base.scores[name].record.get("members")]
    attacked = [name for name in names if name != "clean"]
    decisive = min(suites or attacked or names, key=lambda name: of_base[name].score.accuracy)
    matches = [match for name in names if (match := _ITERATED.fullmatch(name))]
    iterated = [(match[1] == "pgd", int(match[2]), match[0]) for match in matches if match[1] == "pgd" or suites]
    longest = max(iterated)[-1] if iterated else None
    return decisive, None if longest == decisive else longest


def _under(attack: str, found: list[methods.Method], pairs, labels, by_run, spread, of_run) -> list[dict]:
    """The figures of all methods under one attack, the base first."""
    named = [named_on_validation([of_run[run.workdir] for run in method.runs], attack) for method in found]
    compared = [None]
    for of, name in zip(pairs[1:], named[1:], strict=True):
        both = [tuple(by_run[run.workdir][attack] for run in pair) for pair in of]
        # Changed heads differ from their own checkpoints less, from seed to seed, than two runs do.
        heads = all(methods.comes_from(b, a) for a, b in of)
        compared.append(differences.paired(labels, both, (named[0], name), heads))
    figures = []
    for i, method in enumerate(found):
        others = [compared[j] for j in range(1, len(found)) if j != i]
        own = [by_run[run.workdir][attack] for run in method.runs]
        figures.append(differences.under_attack(own, compared[i], others, spread))
    return figures


def _method(method: methods.Method, base: methods.Method, pairs, attacks: dict, of_run: dict) -> dict:
    """The row of one method; what depends on the other methods is filled in later."""
    is_base = method is base
    runs = [of_run[run.workdir] for run in method.runs]
    return {
        "name": method.name,
        "is_base": is_base,
        "differs": method.differs,
        "seeds": list(method.seeds),
        "pairs": len(pairs),
        "covers_seeds": (len(method.runs) if is_base else len(pairs)) >= seeds.MIN_SEEDS,
        "runs": [_run(side, seed) for side, seed in zip(runs, method.seeds, strict=True)],
        "attacks": attacks,
        "speed": _speed(method, base),
        "training": _training(method, pairs, runs[0].class_names),
    }


def _run(side: Side, seed: int) -> dict:
    return {
        "workdir": str(side.run.workdir),
        "seed": seed,
        "step": side.checkpoint.step,
        "epoch": side.run.epoch(side.checkpoint),
        "weights": side.checkpoint.weights,
        "checkpoint": side.why,
    }


def verdicts_of(attacks: dict, decisive: str, pgd: str | None) -> dict:
    """What PGD and the deciding attack say of the worst class, and a name for their disagreement."""
    verdict, by_pgd = attacks[decisive]["worst"]["verdict"], pgd and attacks[pgd]["worst"]["verdict"]
    disagreement = None
    if by_pgd and by_pgd != verdict:
        disagreement = {
            (HELPS, NO_DIFFERENCE): ONLY_PGD,
            (HELPS, HURTS): ONLY_PGD,
            (NO_DIFFERENCE, HELPS): "PGD misses the gain",
            (HURTS, HELPS): "PGD misses the gain",
            (NO_DIFFERENCE, HURTS): "PGD misses the loss",
            (HURTS, NO_DIFFERENCE): "loses under PGD alone",
        }[by_pgd, verdict]
    return {"pgd": by_pgd, "judge": verdict, "disagreement": disagreement}


def cost_per_point_of(of: dict, average: dict | None = None) -> float | None:
    """Points of average lost per point of the worst class gained; None unless the gain is significant.

    Args:
        of: a method under the attack that judges.
        average: its average under another attack.
    """
    if of["worst"]["verdict"] != HELPS:
        return None
    return max(0.0, -(average or of["average"])["difference"]) / of["worst"]["difference"]


def _speed(method: methods.Method, base: methods.Method) -> dict:
    """Images per second of training, the median over epochs, meaned over seeds, and relative to the base's."""

    def mean(runs_):
        medians = [
            statistics.median(rates)
            for run in runs_
            if (rates := [line["images_per_second"] for line in run.training if line.get("images_per_second")])
        ]
        return statistics.fmean(medians) if medians else None

    own, of_base = mean(method.runs), mean(base.runs)
    return {"images_per_second": own, "relative": own / of_base if own and of_base else None}


def _training(method: methods.Method, pairs, class_names) -> dict:
    """The worst class on the training images of the last epoch, as the training attack left them."""
    last = [_last_epoch(run) for run in method.runs]
    known = [accuracy for accuracy in last if accuracy is not None]
    differences = [
        np.nanmin(ours) - np.nanmin(theirs)
        for base, run in pairs
        if (theirs := _last_epoch(base)) is not None and (ours := _last_epoch(run)) is not None
    ]
    mean = np.mean(known, 0) if known else None
    return {
        "worst_class_accuracy": float(np.mean([np.nanmin(accuracy) for accuracy in known])) if known else None,
        "worst_class": class_names[int(np.nanargmin(mean))] if known and mean.size == len(class_names) else None,
        "difference": float(np.mean(differences)) if differences else None,
    }


def _last_epoch(run: RunFiles) -> np.ndarray | None:
    """Accuracy of each class on the training images of the last epoch; None where it is not logged."""
    values = run.training[-1].get("train_class_accuracy") if run.training else None
    accuracy = np.array(values or [], float)  # None becomes nan
    return accuracy if accuracy.size and not np.isnan(accuracy).all() else None


def _notes_on_seeds(found: list[methods.Method], rows: list[dict]) -> list[str]:
    """Methods whose seeds the differences cannot all use."""
    notes = []
    for method, row in zip(found[1:], rows[1:], strict=True):
        if row["pairs"] < len(method.runs):
            notes.append(
                f"{method.name}: {row['pairs']} of its {len(method.runs)} seeds could be paired with one of the base; "
                "its differences are of these alone."
            )
        elif missing := sorted(set(method.seeds) - set(found[0].seeds)):
            what = "seed" if len(missing) == 1 else "seeds"
            notes.append(f"{method.name}: {what} {', '.join(map(str, missing))} of it paired with others of the base.")
    return notes


def _notes_on_names(rows: list[dict], attack: str) -> list[str]:
    """Methods of which no class is named on validation images."""
    named = [row["attacks"][attack]["worst"]["named"] for row in rows[1:]]
    if all(of[0] and of[1] for of in named):
        return []
    who = (
        "the base"
        if not named[0][0]
        else ", ".join(r["name"] for r, of in zip(rows[1:], named, strict=True) if not of[1])
    )
    return [
        f"No validation results of {who} name a worst class, so intervals of the worst class allow for any, and find "
        "less; score the validation split too."
    ]
