"""Compare two runs class by class on the same images, or many methods with a base.

    jaxrobust compare RUN_A RUN_B [--split test|validation] [--attack NAME ...] [--weights best|raw|averaged]
        [--step_a STEP] [--step_b STEP] [--out DIR]
    jaxrobust compare BASE RUN RUN ... [--split] [--attack] [--weights] [--out]

Compares the best checkpoint of each run (the last one if none was selected), under every attack that both were scored
under. Prints tables and findings, and writes compare.html, compare.json and the figures to DIR, by default
RUN_B/compare-<name of RUN_A>. Differences are B minus A.

With more than two runs the result is a trade-off table: runs that differ only in their training seed are one method,
and each method is compared with the method of BASE, see comparison/trade_off.py. It writes price_list.html, .json and
.csv and the figure to DIR, by default BASE/price-list.
"""

import pathlib

from jaxrobust import console, files
from jaxrobust.commands.front_end import writing_to
from jaxrobust.comparison import trade_off
from jaxrobust.comparison.pairs import SPLITS, WEIGHTS, compare_runs
from jaxrobust.errors import FieldError
from jaxrobust.reports import compare as compare_pages, price_list as price_list_pages


def add_arguments(parser) -> None:
    parser.add_argument("run_a", metavar="RUN_A", help="workdir of a run")
    parser.add_argument("run_b", metavar="RUN_B", help="workdir of the other")
    parser.add_argument("more", metavar="RUN", nargs="*", help="more workdirs: a trade-off table of all methods")
    parser.add_argument("--split", choices=SPLITS, help="default: test where both were scored on it")
    parser.add_argument("--attack", action="append", default=[], help="may be given again; default: all in common")
    parser.add_argument("--weights", choices=WEIGHTS, default="best", help="default: those of the best checkpoint")
    parser.add_number("--step_a", int, 0, "step of A's checkpoint; default: its best, else its last")
    parser.add_number("--step_b", int, 0, "the same of B")
    parser.add_out("RUN_B/compare-<name of RUN_A>")


def run(given) -> None:
    """Compare, write the page, and show tables, findings and its path."""
    for option in ("step_a", "step_b"):
        if given.more and getattr(given, option) is not None:
            raise FieldError(f"--{option}", getattr(given, option), "works with exactly two runs", "leave it out")
    chosen = {"split": given.split, "attacks": tuple(dict.fromkeys(given.attack)), "weights": given.weights}
    if given.more:
        shown, name = price_list_pages, "price_list.json"
        figures = trade_off.trade_off((given.run_a, given.run_b, *given.more), **chosen)
        folder = given.out or pathlib.Path(given.run_a) / "price-list"
    else:
        shown, name = compare_pages, "compare.json"
        figures = compare_runs(given.run_a, given.run_b, step_a=given.step_a, step_b=given.step_b, **chosen)
        folder = given.out or pathlib.Path(given.run_b) / f"compare-{figures['a']['name']}"
    with writing_to(folder):
        files.write_atomically(folder / name, files.to_json(figures))
        path = shown.write(folder, figures)
    for line in figures["notes"]:
        console.warn(line)
    for title, table in shown.tables(figures):
        console.say(title)
        console.show(table)
    console.result(path)
