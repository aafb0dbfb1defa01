"""Files of a run that are not what they should be, and what reads them. A table: files x contents x readers."""

import contextlib
import io
import json
import os
import pathlib
import shutil

import numpy as np
import reported_runs

from jaxrobust import config as config_lib
from jaxrobust.audit import results as audit_results
from jaxrobust.comparison.pairs import compare_runs
from jaxrobust.comparison.trade_off import trade_off
from jaxrobust.errors import UserError
from jaxrobust.evaluation import loading
from jaxrobust.reports import audit as report_audit, run as run_page
from jaxrobust.runs import checkpoints, class_summary, history, results
from jaxrobust.runs.reading import RunFiles, facts
from jaxrobust.studies import probing, running
from jaxrobust.training import loop

NAMES = ("cat", "dog", "deer")
HEAD = {
    "remedy": "tau_norm",
    "run": "x",
    "step": 1,
    "epoch": 1,
    "weights": "raw",
    "settings": {"tau": 1.0},
    "chosen": {},
}
PROBES = {
    "of": {"step": 1},
    "classes": list(NAMES),
    "images": {"training_images": 1, "test_images": 1, "test_is_scored": True},
    "values": {"overlap": [0.1, None, 0.2]},
    "left_out": {},
}
RESULTS, TRAINING, EXAMPLES = "results.jsonl", "training.jsonl", "examples/100-averaged-test.npz"


def audit() -> dict:
    labels = np.repeat(np.arange(3), 20)
    arrays = {"labels": labels, "targets": (labels[:, None] + 1) % 3, "reached": np.zeros((60, 1), bool)}
    arrays["breaking_radius"] = np.array([0.1, np.inf, 0.2])[labels]
    about = {"step": 100, "epoch": 1, "weights": "averaged", "split": "test", "classes": list(NAMES), "whole": 60}
    state = {"settings": {"attack": "a", "members": ["a"], "radii": [0.1, 0.2]}, "passes": 1, "idle": 0, "seconds": 1}
    states = {"curve": state, "matrix": state}
    return audit_results.figures(arrays, states, about | {"norm": "linf", "eps": 0.1}, None)


def write(workdir) -> pathlib.Path:
    """A run with every file that something reads."""
    few = {"names": list(NAMES), "clean": np.array([0.9, 0.8, 0.85]), "robust": np.array([0.5, 0.25, 0.4])}
    workdir.mkdir(parents=True)
    reported_runs.write_run(workdir, per_class=20, steps=(100,), **few)
    config = config_lib.to_dict(config_lib.default()) | {"train": config_lib.to_dict(config_lib.default())["train"]}
    for name, content in {
        "config.json": config,
        "weights.json": HEAD,
        "audit.json": audit(),
        "probes.json": PROBES,
        "failed.json": {"error": "disk full"},
    }.items():
        (workdir / name).write_text(json.dumps(content))
    return workdir


def _table(run):
    files = RunFiles(run)
    facts(files.config, files.origin)
    class_summary.class_truth(files.scores[files.selected()], files.examples(files.selected()))
    return run_page.class_table(run)


def _other(run) -> pathlib.Path:
    return run.parent / "other"


def _stored(run):
    store = results.StoredResults(run, 100, "averaged", "test")
    return [store.finished(attack) for attack in store.records()]


def _train(run):
    with loop.training_in(run, config_lib.default()):
        pass


# By file: what reads it, by the functions that the commands call; the fastest first.
_RUN = {
    "report": _table,
    "compare": lambda run: compare_runs(_other(run), run),
    "trade-off": lambda run: _trade_off(run),
}
_WEIGHTS = {"export, audit, posthoc, load_run": lambda run: checkpoints.choose(run, [100], averaged=True)}
READERS = {
    "config.json": {"evaluate": history.mark_best, "open_run": loading.open_run, "train": _train} | _RUN,
    "best.json": _WEIGHTS | _RUN,
    RESULTS: {"best": history.mark_best, "evaluate": _stored} | _RUN,
    TRAINING: {"train": results.read_training} | _RUN,
    "weights.json": {"posthoc": results.ORIGIN.read} | _RUN,
    "audit.json": {"report": lambda run: report_audit.findings(audit_results.AUDIT.read(run))},
    "probes.json": {"study": lambda run: probing.PROBES.read(run)},
    "failed.json": {"study": lambda run: running.FAILED.read(run)},
    EXAMPLES: {"evaluate": _stored} | _RUN,
}


def _trade_off(run):
    return trade_off((_other(run), run))


# Whatever the file, none of these is one.
CONTENTS = {
    "empty": b"",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "list": b"[]",
    "list of numbers": b"[1, 2]",
    "truncated": b'{"step": 1, "we',
    "no JSON": b"<html>",
    "NaN": b'{"step": NaN}',
    "beyond a float": b'{"step": 1e999}',
    "beyond 64 bits": b'{"step": ' + b"9" * 5000 + b"}",
    "deep list": b"[" * 200_000 + b"]" * 200_000,
    "deep dict": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "not UTF-8": b'{"step": "\xff"}',
    "zeros": b"\0" * 100,
    "UTF-16": '{"step": 1}'.encode("utf-16"),
    "no keys": b"{}",
    "other keys": b'{"a": 1}',
}
VALUES = (None, "x", "", -1, 1.5, True, [], {}, [None], ["x"], [[1]], {"a": {}}, 10**30, -0.5, "\x1b[2J")


def put_folder(path):
    path.unlink()
    path.mkdir()


def put_pipe(path):
    path.unlink()
    os.mkfifo(path)


def put_loop(path):
    path.unlink()
    path.symlink_to(path)


THINGS = {"folder": put_folder, "named pipe": put_pipe, "link to itself": put_loop}


def content_of(name: str, content: bytes) -> bytes:
    """The content as the whole file, or as a line of its own."""
    return content + b"\n" if name.endswith(".jsonl") else content


def changed(document, values=VALUES, inner=12):
    """(place, document) with each key of a document, and of what it holds, left out or of another value."""
    places = [(key,) for key in document]
    places += [(key, own) for key, held in document.items() if isinstance(held, dict) for own in list(held)[:inner]]
    for place in places:
        for value in ("left out", *values):
            copy = json.loads(json.dumps(document))
            holder = copy
            for key in place[:-1]:
                holder = holder[key]
            if value == "left out":
                del holder[place[-1]]
            else:
                holder[place[-1]] = value
            yield f"{'.'.join(map(str, place))} = {value!r}", copy


def said(read, run) -> str:
    """What comes of a reader: "read", or the error; any other exception is passed on."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            read(run)
        except UserError as error:
            return str(error)
    return "read"


@contextlib.contextmanager
def replaced(path):
    """The file may be replaced by anything within the context."""
    before = path.read_bytes()
    try:
        yield path
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(before)
