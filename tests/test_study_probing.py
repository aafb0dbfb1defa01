"""Probes of the runs of a study: real trainings, in parts, one of which fails, probed in passes."""

import csv
import shutil

import pytest
from runs import TESTS

from jaxrobust import files
from jaxrobust.explanations.explaining import explain
from jaxrobust.reports import study as study_pages, study_findings
from jaxrobust.studies import Study, answers, design, probing, product, running

AXES = {
    "rate": {"fast": {}, "slow": {"optimizer.learning_rate": 0.02}},
    "objective": {"pgd": {}, "natural": {"objective.name": "standard"}},
}
FIELDS = {"model.name": "linear", "eval.splits": ("test",), "train.average_decay": 0.0, "train.epochs": 1}
FIELDS |= {"eval.every_epochs": 1, "data.validation_per_class": 0}
EXAMPLES = 100


def study(**changes):
    fields = {"title": "T", "base": str(TESTS / "tiny_config.py"), "axes": AXES, "runs": product(AXES)}
    return Study(**fields | {"fields": FIELDS, "probes": True, "probe_examples": EXAMPLES} | changes)


PLANNED = design.plan(study(), TESTS)
NATURAL = PLANNED[1]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of two adversarially trained runs, both probed, one natural run, and one that failed."""
    folder = tmp_path_factory.mktemp("study")
    adversarial = [PLANNED[0], PLANNED[2]]
    assert running.run_all(adversarial, folder) == []
    # The natural runs are another part's, and still to come.
    assert probing.measure_all(study(), PLANNED, folder, adversarial) == []
    assert [task.name for task in probing.lacking(study(), PLANNED, folder)] == ["fast-pgd", "slow-pgd"]
    assert not path(folder, 0).exists()
    assert running.run_all([NATURAL], folder) == []
    failed = running.folder(folder, PLANNED[3])
    failed.mkdir()
    files.write_atomically(failed / running.FAILED, files.to_json({"error": "disk full"}))
    assert probing.measure_all(study(), PLANNED, folder, adversarial) == []
    return folder


def path(folder, number):
    return running.folder(folder, PLANNED[number]) / probing.PROBES


def test_values_are_those_of_explain(workdir):
    fast, slow = (files.read_json(path(workdir, number)) for number in (0, 2))
    folders = [running.folder(workdir, run) for run in (PLANNED[0], NATURAL)]
    found = explain(folders[:1], attack="pgd3", standard=folders[1], examples=EXAMPLES)
    assert {row["name"]: row["values"][0] for row in found["probes"]} == fast["values"]
    assert fast["of"]["standard"] == "fast-natural" and fast["of"]["examples"] == EXAMPLES
    assert slow["of"]["standard"] is None and "without attack" in slow["left_out"]["standard_overlap"]
    assert "standard_overlap" in fast["values"] and fast["values"]["pixel_overlap"] == slow["values"]["pixel_overlap"]
    assert not path(workdir, 1).exists()  # nothing of a natural run is to be explained


def test_what_is_probed_is_not_probed_again(workdir):
    before = [path(workdir, number).stat().st_mtime_ns for number in (0, 2)]
    assert probing.measure_all(study(), PLANNED, workdir) == []
    assert [path(workdir, number).stat().st_mtime_ns for number in (0, 2)] == before
    assert len(probing.lacking(study(probe_examples=50), PLANNED, workdir)) == 2
    assert len(probing.lacking(study(attack="clean"), PLANNED, workdir)) == 2
    assert probing.lacking(study(probes=False), PLANNED, workdir) == []


@pytest.mark.parametrize("content", ['{"of": ', "[]", '{"values": {}}'])
def test_probes_that_cannot_be_read_are_measured_again(workdir, tmp_path, content):
    copy = tmp_path / "study"
    shutil.copytree(workdir, copy)
    path(copy, 0).write_text(content)
    assert [task.name for task in probing.lacking(study(), PLANNED, copy)] == ["fast-pgd"]
    assert answers.answer(study(), PLANNED, copy)["data"][0]["explanations"] is not None


def test_the_page_says_what_goes_along(workdir, tmp_path):
    answer = answers.answer(study(), PLANNED, workdir)
    found = answer["data"][0]["explanations"]
    assert [of["name"] for of in found["runs"]] == ["fast", "slow"] and found["unit"] == "setting"
    assert found["ceiling"] is None and found["lacking"] == 0
    shown = [row["mean_held_out"] for row in found["probes"] if not row["built_in"] and row["mean_held_out"]]
    assert shown == sorted(shown, reverse=True) and len(shown) > 10
    page = study_pages.write(tmp_path, answer).read_text()
    for words in ("Why: what goes along with it", "R², held-out setting", "pixel overlap", "passes no images"):
        assert words in page
    with open(tmp_path / "explain.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 10
    assert float(lines[3]["pixel_overlap"]) == files.read_json(path(workdir, 0))["values"]["pixel_overlap"][3]
    assert (tmp_path / "ranking.svg").stat().st_size and (tmp_path / "ranking.png").stat().st_size

    without = answers.answer(study(probes=False), PLANNED, workdir)
    assert without["data"][0]["explanations"] is None
    assert "go along" not in study_pages.write(tmp_path, without).read_text()


def test_a_run_that_cannot_be_probed_does_not_end_the_others(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    path(copy, 0).unlink()
    shutil.rmtree(running.folder(copy, PLANNED[0]) / "checkpoints")
    assert probing.measure_all(study(), PLANNED, copy) == ["fast-pgd"]
    answer = answers.answer(study(), PLANNED, copy)
    found = answer["data"][0]["explanations"]
    assert found["lacking"] == 1 and found["yardstick"] is None
    said = {row.what: row for row in study_findings.findings(answer)}
    assert said["adversarially trained runs not probed"].value == "1"
    assert "of one setting" in said["R² on a held-out setting"].note
