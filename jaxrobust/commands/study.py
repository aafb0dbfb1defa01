"""Train the runs of a study, which is declared in a file, and analyse them together.

    jaxrobust study --study configs/studies/digits.py --workdir DIR
    jaxrobust study --study FILE --workdir DIR --list          # show the runs, their state and their cost
    jaxrobust study --study FILE --workdir DIR --shard 2/8     # train one part, for a job array
    jaxrobust study --study FILE --workdir DIR --processes 4   # 4 runs at a time on this machine
    jaxrobust study --study FILE --workdir DIR --summarise     # analyse the finished runs

If the study asks for `probes`, each command measures them after it has trained its runs; --summarise measures those
that are still missing.

Runs are ordinary runs in DIR/runs; see studies/ for how a study is declared. The same command continues an interrupted
study. When all runs are done, or with --summarise, the command writes DIR/study.html, study.json, the tables as .csv
and the figures.
"""

import argparse
import contextlib
from collections import Counter

from rich.table import Table
from rich.text import Text

from jaxrobust import console, files
from jaxrobust.commands import front_end
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, UserError
from jaxrobust.reports import findings, run as run_page, study as study_pages, study_findings
from jaxrobust.studies import answers, design, probing, processes, running


def add_arguments(parser) -> None:
    parser.add_argument("--study", metavar="FILE", help="file that declares the study")
    parser.add_argument("--workdir", metavar="DIR", help="folder of the study")
    parser.add_switch("list", "show the runs, their state and their cost")
    parser.add_argument("--shard", metavar="i/n", help="train only part i of n")
    text = "runs to train at a time, each on its share of the cores and GPUs; without effect with --summarise, so that "
    parser.add_number("--processes", int, 1, text + "jobs may share arguments", default=1)
    parser.add_argument("--worker", metavar="NAME", help=argparse.SUPPRESS)  # of --processes: trains this run
    parser.add_switch("summarise", "analyse the runs that are done; train nothing")
    parser.add_argument("--config", help=argparse.SUPPRESS)  # to say why there is none


def run(given) -> int | None:
    """Do what the options say. Returns the exit code: 1 if a run failed."""
    _check(given)
    path, workdir = files.path(given.study, "study"), files.folder(given.workdir, "workdir")
    study = design.load(path)
    planned = design.plan(study, path.parent)
    if given.worker:
        error = processes.work(planned, workdir, given.worker, run_page.finish)
        return front_end.fail(error, exit_code=1) if error else None
    chosen = running.part(planned, given.shard) if given.shard is not None else planned
    if given.list:
        running.check(planned, parallel.make_mesh().size)
        show(chosen, workdir, {task.name for task in probing.lacking(study, planned, workdir)})
        return None
    failed = []
    if not given.summarise:
        several = given.processes > 1
        with processes.without_accelerators() if several else contextlib.nullcontext():
            running.check(planned, parallel.make_mesh().size)
            files.writable(workdir, "workdir")
            if several:
                failed = processes.run_all(chosen, workdir, given.processes)
            else:
                failed = running.run_all(chosen, workdir, run_page.finish)
        if given.shard is not None:
            failed += probing.measure_all(study, planned, workdir, chosen)
            return 1 if failed else None
    failed += probing.measure_all(study, planned, workdir)
    figures = answers.answer(study, planned, workdir)
    console.show(findings.table(study_findings.findings(figures)))
    console.say(f"page: {study_pages.write(workdir, figures)}")
    return 1 if failed else None


def _check(given) -> None:
    """Check that the options go together."""
    front_end.require(given, "study", "give the file that declares the study")
    front_end.require(given, "workdir", "give a folder for its runs")
    if given.list + given.summarise + (given.shard is not None) > 1 and not (given.list and given.shard):
        raise UserError("--list, --shard and --summarise are different actions; give one")
    if given.processes > 1 and given.list:
        raise FieldError("--processes", given.processes, "does not go with --list", "leave one of them out")
    if given.config:
        raise UserError("--config has no effect on a study; set `fields` in the study's file, or use another `base`")


def show(planned, workdir, unprobed=frozenset()) -> None:
    """Show the runs with their state, the minimum arithmetic of their training, and their measured or estimated time;
    `unprobed` names those that lack only their probes.
    """
    found, work = running.statuses(workdir, planned), running.flops(planned)
    seconds = running.estimates(work, found)
    table, states = Table(), {}
    for name in ("run", "state", "TFLOP", "time"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    for name, status in found.items():
        states[name] = "not probed" if name in unprobed else status.state
        state = states[name] + (f": {status.error}" if status.error else "")
        table.add_row(Text(name), state, _tera(work[name]), _time(status.state, seconds[name]))
    console.show(table)
    counts = Counter(states.values())
    console.say(f"{len(planned)} runs: {', '.join(f'{number} {state}' for state, number in counts.items())}")
    left = [name for name, state in states.items() if state not in ("done", "not probed")]
    if left:
        flop = f"{_tera(sum(work[name] for name in left))} TFLOP of training left"
        if None in seconds.values():
            console.say(f"{flop}; the time can be estimated once a run is done; `benchmark` measures TFLOP/s before")
        else:
            console.say(f"{flop}, about {console.duration(sum(seconds[name] for name in left))}, one run at a time")


def _tera(flops: float) -> str:
    return f"{1e-12 * flops:,.3g}" if flops < 1e15 else f"{1e-12 * flops:,.0f}"


def _time(state: str, seconds: float | None) -> str:
    if seconds is None:
        return ""
    return ("" if state == "done" else "about ") + console.duration(seconds)
