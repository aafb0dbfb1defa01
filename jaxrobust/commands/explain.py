"""Why are some classes weak? Probes of data, model and results, ranked by their correlation with class robustness.

    python -m jaxrobust explain WORKDIR [WORKDIR ...] [--attack NAME] [--weights best|raw|averaged] [--split NAME]
        [--standard RUN] [--other RUN] [--examples N] [--data_dir DIR] [--batch_size N] [--out DIR]
    python -m jaxrobust explain --config FILE [--examples N] [--data_dir DIR] [--out DIR]      # before training

A probe gives one number for each class of the best checkpoint (the last one if none was selected), see explanations/.
For each probe the command reports the rank correlation with the accuracies of the classes under an attack (by default
the strongest), its interval, a p-value with Holm's correction over all probes, and whether the sign is the one that
theory predicts. With several runs on the same classes it also reports how much of the variance between the classes of a
run the probe predicts when fitted to the other runs. RUN are other models on the same images: one trained without
attack, and one on which the adversarial images are tried.

Prints tables and conclusions, and writes explain.html, explain.json, explain.csv and the figures to DIR, by default
WORKDIR/explain. With --config it measures only the probes of the data, and writes them to data_probes.csv in DIR, by
default in runs/<config name>/explain. A correlation does not show a cause; that takes an intervention.
"""

import argparse
import pathlib
import sys

from absl import logging as absl_logging

from jaxrobust import config as config_lib
from jaxrobust import console, files, reports
from jaxrobust.commands import arguments
from jaxrobust.comparison.pairs import SPLITS, WEIGHTS, Side, open_runs, open_side
from jaxrobust.config import objects, validation
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, UserError
from jaxrobust.explanations import PROBES, measuring
from jaxrobust.explanations.images import Images
from jaxrobust.explanations.measuring import measure, rank
from jaxrobust.explanations.probe import EXAMPLES
from jaxrobust.explanations.subject import Subject, open_model
from jaxrobust.reports import explain as explain_pages
from jaxrobust.runs import reading


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
    """Measure every probe of every run, and its correlation with the robustness of the classes. Returns JSON data.

    Args:
        workdirs: of runs on the same classes.
        attack: defines robustness; None: the strongest attack that all runs were scored under.
        weights, split: as of compare.compare.
        standard, other: workdirs of other models, see the module's docstring.
        examples: number of images of each split to use, a stratified subset; 0 for all.
        overrides: of subject.OWN_FIELDS, by dotted name.

    Raises:
        UserError: a run, result, attack or checkpoint does not exist, or the runs have different classes.
    """
    overrides = overrides or {}
    _check_examples(examples)
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
        described.append(_described(side, subject, left_out))
        for name in PROBES:
            values[name].append(found.get(name))
    return {
        "unit": "run",
        "attack": attack,
        "split": sides[0].run.split,
        "classes": list(sides[0].class_names),
        "confidence": measuring.CONFIDENCE,
        "level": measuring.LEVEL,
        "standard": None if standard is None else str(standard),
        "other": None if other is None else str(other),
        "runs": described,
        **rank(values, [run["robustness"] for run in described]),
    }


def before_training(path, *, examples: int = EXAMPLES, overrides: dict | None = None) -> dict:
    """Measure the probes that need only data, for a config file. Returns JSON data: `classes`, `probes` {name: [C]}.

    Args:
        examples, overrides: as of `explain`.

    Raises:
        UserError: the file does not exist, or its data cannot be loaded.
    """
    _check_examples(examples)
    config = config_lib.given(path, "--config")
    config.update_from_flattened_dict(overrides or {})
    validation.validate(config, parallel.make_mesh().size, training=False)
    looked_at = Images(config, objects.dataset(config), examples, str(path))
    found = {name: probe.measure(looked_at) for name, probe in PROBES.items() if probe.looks_at == "data"}
    return {
        "classes": list(looked_at.class_names),
        "training_images": len(looked_at.train_ids),
        "probes": files.nullable({name: values.tolist() for name, values in found.items()}),
    }


def _check_examples(examples: int) -> None:
    if examples < 0:
        raise FieldError("--examples", examples, "is negative", "give a number, or 0 for all")


def _attack(sides, asked: str | None) -> str:
    """The attack that defines robustness: the requested one, or the common one that is strongest on the first run."""
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
    return reading.strongest(common)


def _described(side: Side, subject: Subject, left_out: dict) -> dict:
    """The entry of one run: what it is, the accuracies of its classes under attack, and which images were used."""
    return {
        **side.description(),
        "count": subject.count.tolist(),
        "correct": subject.correct.tolist(),
        "robustness": files.nullable(subject.robustness.tolist()),
        **measuring.images(subject),
        "left_out": left_out,
    }


def to_csv(figures: dict) -> str:
    """A line for each class of each run: images, robustness, and a column for each probe."""
    header, lines = ["run", "class", "images", "robustness", *(row["name"] for row in figures["probes"])], []
    for r, run in enumerate(figures["runs"]):
        for c, name in enumerate(figures["classes"]):
            probes = [row["values"][r][c] for row in figures["probes"]]
            lines.append([run["workdir"], name, run["count"][c], run["robustness"][c], *probes])
    return reports.to_csv(header, lines)


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments.Parser("jaxrobust explain", __doc__)
    parser.add_argument("workdirs", metavar="WORKDIR", nargs="*", help="workdirs of scored runs on the same classes")
    parser.add_argument("--config", metavar="FILE", help="a config, to look at its data before anything is trained")
    parser.add_argument("--attack", help="attack that defines robustness; default: the strongest that all have")
    parser.add_argument("--weights", choices=WEIGHTS, default="best", help="default: those of the best checkpoint")
    parser.add_argument("--split", choices=SPLITS, help="default: test where it was scored")
    parser.add_argument(
        "--standard", metavar="RUN", help="a run trained without attack, for the overlap in its features"
    )
    parser.add_argument("--other", metavar="RUN", help="a run to test the transfer of adversarial images with")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="images of each split to look at; 0: all")
    parser.add_argument("--data_dir", help="folder of the data, if not that of the runs")
    parser.add_argument("--batch_size", type=int, help="images at a time; default: that of the evaluation")
    parser.add_out("WORKDIR/explain")
    given = parser.parse_args(argv)
    if bool(given.workdirs) == bool(given.config):
        raise UserError("give the workdirs of trained runs, or else --config FILE to look at data before training")
    return given


def main(argv: list[str] | None = None) -> int:
    """The command: prints tables, sentences and the path of the page, or one line about what is wrong."""
    absl_logging.set_verbosity(absl_logging.ERROR)  # libraries log what a user cannot act on
    try:
        given = _parsed(argv)
        fields = {"data.data_dir": given.data_dir, "eval.batch_size": given.batch_size}
        fields = {name: value for name, value in fields.items() if value is not None}
        if given.config:
            return _show_data(given, fields)
        figures = explain(
            given.workdirs,
            attack=given.attack,
            weights=given.weights,
            split=given.split,
            standard=given.standard,
            other=given.other,
            examples=given.examples,
            overrides=fields,
        )
        folder = given.out or pathlib.Path(given.workdirs[0]) / "explain"
        with arguments.writing_to(folder):
            files.write_atomically(folder / "explain.json", files.to_json(figures))
            files.write_atomically(folder / "explain.csv", to_csv(figures))
            path = explain_pages.write(folder, figures)
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


def _show_data(given: argparse.Namespace, overrides: dict) -> int:
    figures = before_training(given.config, examples=given.examples, overrides=overrides)
    lines = zip(figures["classes"], *figures["probes"].values(), strict=True)
    folder = given.out or pathlib.Path("runs") / pathlib.Path(given.config).stem / "explain"
    with arguments.writing_to(folder):
        path = folder / "data_probes.csv"
        files.write_atomically(path, reports.to_csv(["class", *figures["probes"]], lines))
    console.show(explain_pages.data_table(figures))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
