"""The command: real trainings of a small study, in parts, with one that fails, interrupted and resumed."""

import functools
import os
import signal

import pytest
import small_study
from runs import TESTS, run_study as run
from small_study import plan

from jaxrobust import files
from jaxrobust.commands import front_end, study
from jaxrobust.studies import running


@pytest.fixture
def declared(tmp_path):
    return functools.partial(small_study.declare, tmp_path / "study.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The study's path and the workdir of one command."""
    folder = tmp_path_factory.mktemp("whole")
    path = small_study.declare(folder / "study.py")
    code, said = run(path, folder / "out")
    assert code == 0 and "run 2 of 2: slow" in said and "study.html" in said
    return path, folder / "out"


def page(folder):
    return (folder / "study.html").read_text(), (folder / "study.json").read_text()


def _signal_at_the_end_of_a_run():
    study.run_page.finish = lambda workdir: os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_parts_an_interruption_and_a_resumption_give_the_page_of_one_run(whole, tmp_path):
    (path, of_one), parts = whole, tmp_path / "parts"
    # At the end of a run, which has nothing more to stop, so that the study has to.
    code, said = run(path, parts, prepare=_signal_at_the_end_of_a_run)
    assert code == 143 and "continue" in said and "run 2 of 2" not in said
    assert run(path, parts, "--shard", "1/2")[0] == run(path, parts, "--shard", "2/2")[0] == 0
    code, said = run(path, parts, "--summarise")
    assert code == 0

    assert page(parts) == page(of_one)

    code, said = run(path, of_one, "--list")
    assert code == 0 and "2 runs: 2 done" in said


@pytest.mark.slow
def test_processes_give_the_page_of_one(whole, tmp_path):
    path, of_one = whole
    code, said = run(path, tmp_path, "--processes", "2")
    assert code == 0 and "2 runs, 2 at a time" in said and "run slow took" in said
    assert page(tmp_path) == page(of_one)


def test_a_run_that_fails_does_not_end_the_others_and_is_tried_again(declared, tmp_path, capfd):
    path, workdir = declared(**{"train.epochs": 1}), tmp_path / "study"

    def run():
        code = front_end.main(["study", "--study", path, "--workdir", workdir])
        return code, " ".join(capfd.readouterr().err.split())

    blocked, other = plan(path)
    # A folder that holds a run of another config.
    folder = running.folder(workdir, blocked)
    folder.mkdir(parents=True)
    files.write_atomically(folder / "config.json", files.to_json({"train": {"seed": 9}}))
    code, said = run()
    assert code == 1 and f"run {blocked.name} failed" in said and "runs missing" in said and "1 of 2" in said
    assert [running.status(workdir, planned).state for planned in (blocked, other)] == ["failed", "done"]
    (folder / "config.json").unlink()
    code, said = run()
    assert code == 0 and "run 1 of 1" in said
    assert running.status(workdir, blocked).state == "done"


def test_wrong_flags_end_in_one_line(monkeypatch, capfd):
    monkeypatch.chdir(TESTS.parent)
    shipped = ("--study", "configs/studies/digits.py")
    for arguments, words in (
        ((*shipped,), "--workdir is missing"),
        ((*shipped, "--workdir", "x", "--shard", "3/2"), "is not a part"),
        ((*shipped, "--workdir", "x", "--shard", ""), "is not a part"),
        ((*shipped, "--workdir", "README.md"), "is not a folder"),
        ((*shipped, "--workdir", "gs://bucket/x"), "mount the storage"),
        ((*shipped, "--workdir", "x", "--config", "configs/digits.py"), "no effect on a study"),
        ((*shipped, "--workdir", "x", "--list", "--summarise"), "give one"),
        ((*shipped, "--workdir", "x", "--processes", "0"), "no whole number from 1"),
        ((*shipped, "--workdir", "x", "--processes", "2", "--list"), "leave one of them out"),
    ):
        assert front_end.main(["study", *arguments]) == 2
        said = capfd.readouterr().err
        assert words in said and len(said.strip().splitlines()) == 1
