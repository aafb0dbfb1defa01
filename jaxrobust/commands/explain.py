"""Why are some classes weak? Probes of data, model and results, ranked by their correlation with class robustness.

    jaxrobust explain WORKDIR [WORKDIR ...] [--attack NAME] [--weights best|raw|averaged] [--split NAME]
        [--standard RUN] [--other RUN] [--examples N] [--data_dir DIR] [--batch_size N] [--out DIR]
    jaxrobust explain --config FILE [--config.FIELD=VALUE] [--examples N] [--out DIR]      # before training

A probe gives one number for each class of the best checkpoint (the last one if none was selected), see explanations/.
For each probe the command reports the rank correlation with the accuracies of the classes under an attack (by default
the strongest), its interval, a p-value with Holm's correction over all probes, and whether the sign is the one that
theory predicts. With several runs on the same classes it also reports how much of the variance between the classes of a
run the probe predicts when fitted to the other runs. RUN are other models on the same images: one trained without
attack, and one on which the adversarial images are tried.

Prints tables and findings, and writes explain.html, explain.json, explain.csv and the figures to DIR, by default
WORKDIR/explain. With --config it measures only the probes of the data, and writes them to data_probes.csv in DIR, by
default in runs/<config name>/explain. A correlation does not show a cause; that takes an intervention.
"""

import pathlib

from jaxrobust import config as config_lib, console, files, reports
from jaxrobust.commands.front_end import writing_to
from jaxrobust.comparison.pairs import SPLITS, WEIGHTS
from jaxrobust.errors import FieldError, UserError
from jaxrobust.explanations import explaining
from jaxrobust.explanations.probe import EXAMPLES
from jaxrobust.reports import explain as explain_pages, findings


def add_arguments(parser) -> None:
    parser.add_argument("workdirs", metavar="WORKDIR", nargs="*", help="workdirs of scored runs on the same classes")
    parser.add_config("a config, to look at its data before anything is trained")
    parser.add_argument("--attack", help="attack that defines robustness; default: the strongest that all have")
    parser.add_argument("--weights", choices=WEIGHTS, default="best", help="default: those of the best checkpoint")
    parser.add_argument("--split", choices=SPLITS, help="default: test where it was scored")
    parser.add_argument(
        "--standard", metavar="RUN", help="a run trained without attack, for the overlap in its features"
    )
    parser.add_argument("--other", metavar="RUN", help="a run to test the transfer of adversarial images with")
    parser.add_number("--examples", int, 0, "images of each split to look at; 0: all", default=EXAMPLES)
    parser.add_argument("--data_dir", metavar="DIR", help="folder of the data, if not that of the runs")
    parser.add_number("--batch_size", int, 1, "images at a time; default: that of the evaluation")
    parser.add_out("WORKDIR/explain")


def run(given) -> None:
    """Measure, write the page and the tables, and show them."""
    if bool(given.workdirs) == bool(given.config.file):
        raise UserError("give the workdirs of trained runs, or else --config FILE to look at data before training")
    for name in ("attack", "split", "standard", "other"):
        if given.config.file and getattr(given, name) is not None:
            raise FieldError(f"--{name}", getattr(given, name), "has no effect before training", "leave it out")
    fields = {"data.data_dir": given.data_dir, "eval.batch_size": given.batch_size}
    overrides = given.config.overrides | {name: value for name, value in fields.items() if value is not None}
    if given.config.file:
        return _show_data(given, overrides)
    chosen = {name: getattr(given, name) for name in ("attack", "weights", "split", "standard", "other", "examples")}
    # Before hours of measuring.
    folder = given.out or files.writable(files.folder(given.workdirs[0], "workdir") / "explain", "--out")
    figures = explaining.explain(given.workdirs, **chosen, overrides=overrides)
    with writing_to(folder):
        files.write_atomically(folder / "explain.json", files.to_json(figures))
        files.write_atomically(folder / "explain.csv", explain_pages.to_csv(figures))
        path = explain_pages.write(folder, figures)
    console.show(explain_pages.table(figures))
    console.show(findings.table(explain_pages.findings(figures)))
    console.result(path)
    return None


def _show_data(given, overrides: dict) -> None:
    config, file = given.config.values, given.config.file
    config_lib.put(config, overrides)
    folder = given.out or files.writable(pathlib.Path("runs") / file.stem / "explain", "--out")
    figures = explaining.before_training(config, str(file), examples=given.examples)
    lines = zip(figures["classes"], *figures["probes"].values(), strict=True)
    with writing_to(folder):
        path = folder / "data_probes.csv"
        files.write_atomically(path, reports.to_csv(["class", *figures["probes"]], lines))
    console.show(explain_pages.data_table(figures))
    console.result(path)
