"""Why are some classes weak? Probes of data, model and results, ranked by how they go along with class robustness.

    python -m jaxrobust.explain WORKDIR [WORKDIR ...] [--attack NAME] [--weights best|raw|averaged] [--split NAME]
        [--standard RUN] [--other RUN] [--examples N] [--data_dir DIR] [--batch_size N] [--out DIR]

Each probe is a number for each class of the best checkpoint (else the last), see explanations/. Its rank correlation
with the accuracies of the classes under an attack, by default the strongest, comes with an interval, a p-value with
Holm's correction over all probes, and whether its sign is that which theory lets expect. With several runs on the same
classes it also says how much of the variance between the classes of a run the probe predicts, fitted to the others.
RUN are other models on the same images: one trained without attack, and one that adversarial images are passed to.

Prints tables and what follows from them, and writes explain.html, explain.json, explain.csv and the figures to DIR, by
default WORKDIR/explain. A correlation is no cause; what a probe moves takes an intervention to know.
"""

import argparse
import csv
import io
import math
import pathlib
import sys

import numpy as np
from absl import logging as absl_logging

from jaxrobust import classwise, console, files, runs
from jaxrobust.comparison.pairs import SPLITS, WEIGHTS, open_runs, open_side
from jaxrobust.data import randomness
from jaxrobust.errors import FieldError, UserError
from jaxrobust.explanations import PROBES, Missing, ranking
from jaxrobust.explanations.subject import Subject, open_model
from jaxrobust.pages import explain as explain_pages

CONFIDENCE = 0.95
LEVEL = 0.05  # of the tests, after Holm's correction
EXAMPLES = 5000


def explain(
    workdirs,
    *,
    attack: str | None = None,
    weights: str = "best",
    split: str | None = None,
    standard=None,
    other=None,
    examples: int = EXAMPLES,
    overrides: dict | None = None,
) -> dict:
    """Every probe of every run, and how they go along with the robustness of the classes, as JSON data.

    Args:
        workdirs: of runs on the same classes.
        attack: under which robustness counts; None is the one under which the runs are weakest, of those all have.
        weights, split: as of compare.compare.
        standard, other: workdirs of other models, see the module's docstring.
        examples: how many images of a split are looked at, stratified; 0 for all.
        overrides: of subject.OWN_FIELDS, by dotted name.

    Raises:
        UserError: there is no such run, result, attack or checkpoint, or runs are of different classes.
    """
    overrides = overrides or {}
    if examples < 0:
        raise FieldError("--examples", examples, "is negative", "give a number, or 0 for all")
    folders = [pathlib.Path(workdir).resolve() for workdir in workdirs]
    if twice := [str(w) for w, folder in zip(workdirs, folders, strict=True) if folders.count(folder) > 1]:
        raise UserError(f"{twice[0]} is given twice; give each run once")
    sides = [open_side("", run, weights) for run in open_runs(workdirs, split)]
    for side in sides[1:]:
        if side.class_names != sides[0].class_names:
            where = f"{sides[0].run.workdir} and {side.run.workdir}"
            raise UserError(f"{where}: are of different classes; explain runs on the same classes together")
    attack = _attack(sides, attack)
    given = {"standard": standard, "other": other}
    others = {name: open_model(path, overrides, field=f"--{name}") for name, path in given.items() if path is not None}
    if "standard" in others and others["standard"].config.objective.name != "standard":
        objective = others["standard"].config.objective.name
        console.warn(f"--standard {standard} was trained with objective {objective}, not without attack")
    described, values, known = [], {name: [] for name in PROBES}, {}
    for side in sides:
        subject = Subject(side.run, side.checkpoint, attack, overrides, examples, others)
        found, left_out = measure(subject, known)
        described.append(_description(side, subject, left_out))
        for name in PROBES:
            values[name].append(found.get(name))
    return {
        "attack": attack,
        "split": sides[0].run.split,
        "classes": list(sides[0].class_names),
        "confidence": CONFIDENCE,
        "level": LEVEL,
        "standard": None if standard is None else str(standard),
        "other": None if other is None else str(other),
        "runs": described,
        **rank(values, [run["robustness"] for run in described]),
    }


def measure(subject: Subject, known: dict | None = None) -> tuple[dict, dict]:
    """({probe: [C]}, {probe: why it could not be measured}) of one run.

    Args:
        known: probes of data alone by what the data are; filled, so that several runs on the same data share them.
    """
    known = {} if known is None else known
    data_key = str((sorted(subject.dataset.fingerprint().items()), subject.config.eval.seed))
    found, left_out = {}, {}
    for name, probe in PROBES.items():
        try:
            if probe.looks_at != "data":
                found[name] = probe.measure(subject)
            else:
                if (data_key, name) not in known:
                    known[data_key, name] = probe.measure(subject)
                found[name] = known[data_key, name]
        except Missing as reason:
            left_out[name] = str(reason)
    return found, left_out


def rank(values: dict, robustness) -> dict:
    """The probes as JSON data, those first that predict most on held-out runs, or of one run correlate most.

    Args:
        values: {probe: one entry for each run, [C] or None}.
        robustness: [R][C], accuracies; None for a class without images.

    Returns:
        probes: of each that some run has, what it is, its `values` [R][C] and what `ranking` says of it: `correlation`,
            `interval`, `p_value`, `p_holm`, `significant`, `as_expected` (None where theory says nothing), of_runs [R],
            and with several runs `held_out`, R^2 [R] with their `mean_held_out`;
        yardstick: R^2 [R] and mean by the classes' means over the other runs; None of one run.
    """
    robustness = _array(robustness)
    several = len(robustness) > 1
    rows = []
    for name, of_runs in values.items():
        has = [r for r, value in enumerate(of_runs) if value is not None]
        if not has:
            continue
        probe, value = PROBES[name], np.full(robustness.shape, np.nan)
        value[has] = [of_runs[r] for r in has]
        value[np.isinf(value)] = np.nan
        found = ranking.associate(value[has], robustness[has], randomness.generator(0, f"explain {name}"))
        row = {
            **{field: getattr(probe, field) for field in ("name", "meaning", "family", "looks_at", "sign", "built_in")},
            "correlation": found.correlation,
            "interval": [found.low, found.high],
            "p_value": found.p_value,
            "classes": found.classes,
            "runs": len(has),
            "of_runs": dict(zip(has, found.of_runs, strict=True)),
            "values": value.tolist(),
        }
        row["of_runs"] = [row["of_runs"].get(r, math.nan) for r in range(len(of_runs))]
        held_out = np.full(len(of_runs), np.nan)
        if len(has) > 1:
            held_out[has] = ranking.held_out(value[has], robustness[has])
        row |= {"held_out": held_out.tolist(), "mean_held_out": _mean(held_out)} if several else {}
        rows.append(row)
    tested = [row for row in rows if not row["built_in"] and not math.isnan(row["p_value"])]
    holm = dict(
        zip([r["name"] for r in tested], classwise.holm_correction([r["p_value"] for r in tested]), strict=True)
    )
    for row in rows:
        row["p_holm"] = float(holm.get(row["name"], math.nan))
        row["significant"] = row["p_holm"] <= LEVEL
        defined = row["sign"] and not math.isnan(row["correlation"])
        row["as_expected"] = bool(row["correlation"] * row["sign"] > 0) if defined else None
    rows.sort(key=lambda row: _place(row, several))
    yardstick = ranking.held_out_by_class(robustness) if several else None
    of_classes = {"held_out": yardstick.tolist(), "mean_held_out": _mean(yardstick)} if several else None
    return _plain({"probes": rows, "tested": len(tested), "yardstick": of_classes})


def _place(row: dict, several: bool) -> tuple:
    of_order = row["mean_held_out"] if several else abs(row["correlation"])
    return row["built_in"], math.isnan(of_order), -of_order


def _attack(sides, asked: str | None) -> str:
    """The attack under which robustness counts: as asked, or the strongest on the first run that all were under."""
    scored = [set(side.scores) for side in sides]
    common = {name: score for name, score in sides[0].scores.items() if all(name in names for names in scored)}
    if asked is not None:
        if asked not in common:
            lacking = next(side for side in sides if asked not in side.scores)
            remedy = f"scored are {', '.join(lacking.scores)}"
            raise FieldError("--attack", asked, f"{lacking.run.workdir} was not scored under it", remedy)
        return asked
    if not common:
        raise UserError(f"{' and '.join(str(side.run.workdir) for side in sides)} share no attack; evaluate them alike")
    return runs.strongest(common)


def _description(side, subject: Subject, left_out: dict) -> dict:
    robustness = subject.robustness
    return {
        "workdir": str(side.run.workdir),
        "name": side.run.workdir.resolve().name,
        "step": side.checkpoint.step,
        "epoch": side.run.epoch(side.checkpoint),
        "weights": side.checkpoint.weights,
        "checkpoint": side.why,
        "facts": dict(runs.facts(side.run.config, side.run.origin)),
        "count": subject.count.tolist(),
        "correct": subject.correct.tolist(),
        "robustness": _plain(robustness.tolist()),
        "training_images": len(subject.train_ids),
        "test_images": len(subject.test_ids),
        "test_is_scored": subject.test_is_scored,
        "left_out": left_out,
    }


def to_csv(figures: dict) -> str:
    """A line for each class of each run: images, robustness, and a column for each probe."""
    lines = [["run", "class", "images", "robustness", *(row["name"] for row in figures["probes"])]]
    for r, run in enumerate(figures["runs"]):
        for c, name in enumerate(figures["classes"]):
            probes = [row["values"][r][c] for row in figures["probes"]]
            lines.append([run["workdir"], name, run["count"][c], run["robustness"][c], *probes])
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()


def _array(rows) -> np.ndarray:
    return np.array([[np.nan if value is None else value for value in row] for row in rows], float)


def _mean(values) -> float:
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def _plain(value):
    """JSON has no nan: a figure that is not defined is null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; python -m jaxrobust.explain --help shows the options")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser("python -m jaxrobust.explain", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("workdirs", metavar="WORKDIR", nargs="+", help="workdirs of scored runs on the same classes")
    parser.add_argument("--attack", help="under which robustness counts; default: the strongest that all have")
    parser.add_argument("--weights", choices=WEIGHTS, default="best", help="default: those of the best checkpoint")
    parser.add_argument("--split", choices=SPLITS, help="default: test where it was scored")
    parser.add_argument(
        "--standard", metavar="RUN", help="a run trained without attack, for the overlap in its features"
    )
    parser.add_argument("--other", metavar="RUN", help="a run to pass adversarial images to and from")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="images of each split to look at; 0: all")
    parser.add_argument("--data_dir", help="folder of the data, if not that of the runs")
    parser.add_argument("--batch_size", type=int, help="images at a time; default: that of the evaluation")
    parser.add_argument("--out", type=pathlib.Path, help="folder to write to; default: WORKDIR/explain")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command: prints tables, sentences and the path of the page, or one line about what is wrong."""
    absl_logging.set_verbosity(absl_logging.ERROR)  # libraries log what a user cannot act on
    try:
        given = _arguments(arguments)
        fields = {"data.data_dir": given.data_dir, "eval.batch_size": given.batch_size}
        figures = explain(
            given.workdirs,
            attack=given.attack,
            weights=given.weights,
            split=given.split,
            standard=given.standard,
            other=given.other,
            examples=given.examples,
            overrides={name: value for name, value in fields.items() if value is not None},
        )
        folder = given.out or pathlib.Path(given.workdirs[0]) / "explain"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.write_atomically(folder / "explain.json", files.to_json(figures))
            files.write_atomically(folder / "explain.csv", to_csv(figures))
            path = explain_pages.write(folder, figures)
        except OSError as error:
            raise FieldError("--out", str(folder), error.strerror or str(error), "give a folder to write to") from error
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.restore()
        console.say("interrupted; nothing is written")
        return 130
    console.show(explain_pages.table(figures))
    for sentence in explain_pages.conclusion(figures):
        console.say(sentence)
    for line in explain_pages.left_out(figures):
        console.say(line)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
