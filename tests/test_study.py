"""The command: real trainings of a small study, in parts, with one that fails, interrupted and resumed."""

import json
import signal
import subprocess
import sys
import time

import pytest
from runs import TESTS

from jaxrobust import files
from jaxrobust.studies import design, running

STUDY = """
from jaxrobust.studies import Study, levels, product

AXES = {"rate": {"fast": {}, "slow": {"optimizer.learning_rate": 0.02}}, "seed": levels("train.seed", (0,), "seed")}

def get_study():
    return Study(title="Small", base=BASE, axes=AXES, runs=product(AXES), fields=FIELDS)
"""
FIELDS = {"model.name": "linear", "eval.splits": ("test",), "train.average_decay": 0.0, "train.epochs": 2}
FIELDS |= {"eval.every_epochs": 1}
# See runs.py.
COMMAND = "import sys; sys.modules['clu'] = None; from jaxrobust import study; study.run()"


@pytest.fixture
def declared(tmp_path):
    def declare(**fields):
        path = tmp_path / "study.py"
        path.write_text(f"BASE = {str(TESTS / 'tiny_config.py')!r}\nFIELDS = {FIELDS | fields!r}\n" + STUDY)
        return path

    return declare


def start(path, workdir, *arguments):
    command = [sys.executable, "-c", COMMAND, "--study", path, "--workdir", workdir, *arguments]
    return subprocess.Popen(command, cwd=TESTS.parent, stderr=subprocess.PIPE, text=True)


def run(*arguments):
    process = start(*arguments)
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def plan(path):
    return design.plan(design.load(path), path.parent)


def test_parts_an_interruption_and_a_resumption_give_the_page_of_one_run(declared, tmp_path):
    path, whole, parts = declared(), tmp_path / "whole", tmp_path / "parts"
    code, said = run(path, whole)
    assert code == 0 and "run 2 of 2: slow" in said and "study.html" in said

    process = start(path, parts, "--shard", "1/2")
    while not (parts / "runs" / "fast" / "results.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 143 and "continue" in said
    assert run(path, parts, "--shard", "1/2")[0] == run(path, parts, "--shard", "2/2")[0] == 0
    code, said = run(path, parts, "--summarise")
    assert code == 0

    def page(folder):
        return (folder / "study.html").read_text(), json.loads((folder / "study.json").read_text())

    assert page(parts) == page(whole)

    code, said = run(path, whole, "--list")
    assert code == 0 and "2 runs: 2 done" in said


def test_a_run_that_fails_does_not_end_the_others_and_is_tried_again(declared, tmp_path):
    path, workdir = declared(), tmp_path / "study"
    blocked, other = plan(path)
    # A folder that holds a run of another config.
    folder = running.folder(workdir, blocked)
    folder.mkdir(parents=True)
    files.write_atomically(folder / "config.json", files.to_json({"train": {"seed": 9}}))
    code, said = run(path, workdir)
    assert code == 1 and f"run {blocked.name} failed" in said and "1 of 2 runs are missing" in said
    assert [running.status(workdir, run).state for run in (blocked, other)] == ["failed", "done"]
    (folder / "config.json").unlink()
    code, said = run(path, workdir)
    assert code == 0 and "run 1 of 1" in said
    assert running.status(workdir, blocked).state == "done"


def test_wrong_flags_end_in_one_line():
    shipped = ("--study", "configs/studies/digits.py")
    for arguments, words in (
        ((*shipped,), "--workdir is missing"),
        ((*shipped, "--workdir", "x", "--shard", "3/2"), "is no part"),
        ((*shipped, "--workdir", "x", "--list", "--summarise"), "give one"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments], cwd=TESTS.parent, capture_output=True, text=True
        )
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
