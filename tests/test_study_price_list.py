"""Question (c) within a study: which runs its price list compares, and what the page says of it."""

import html

import numpy as np
import pytest
from compared_runs import NAMES, write as write_results

from jaxrobust import config as config_lib, files
from jaxrobust.comparison.trade_off import trade_off
from jaxrobust.reports import study as study_pages, study_findings
from jaxrobust.runs import results
from jaxrobust.studies import Study, answers, design, levels, product, running

AXES = {
    "architecture": {"mlp": {"model.name": "mlp"}, "cnn": {}},
    "remedy": {"plain": {}, "helps": {"remedy.name": "wat"}, "alike": {"remedy.name": "dafa"}},
    "seed": levels("train.seed", (0, 1, 2), "seed"),
}
# The MLP has one remedy, the CNN two.
RUNS = [run for run in product(AXES) if (run["architecture"], run["remedy"]) != ("mlp", "alike")]
FIELDS = {"train.epochs": 1, "train.average_decay": 0.0}
STUDY = Study(title="T", base="../configs/digits.py", axes=AXES, runs=RUNS, fields=FIELDS)
IMAGES = 400
LABELS = np.repeat(np.arange(len(NAMES)), IMAGES)
ATTACKS = {"fgsm": {}, "cw20": {}}


def plan():
    return design.plan(STUDY, __file__.rsplit("/", 1)[0])


def write(workdir, wanted):
    """The files of those runs; under the remedy that helps 60 rather than 40 percent of the weakest class withstand."""
    for number, run in enumerate(run for run in plan() if wanted(run.levels)):
        weakest = 0.6 if run.levels["remedy"] == "helps" else 0.4
        rank = np.tile(np.arange(IMAGES), len(NAMES))
        noise = np.random.default_rng(number).random(LABELS.size) < 0.02
        survives = (rank < IMAGES * np.repeat([weakest, 0.7, 0.8], IMAGES)) ^ noise
        folder = running.folder(workdir, run)
        folder.mkdir(parents=True)
        files.write_atomically(folder / "config.json", files.to_json(config_lib.to_dict(run.config)))
        counts = [IMAGES] * len(NAMES)
        line = {"epoch": 1, "step": 100, "train_class_count": counts, "images_per_second": 100.0}
        results.append_training(folder, line | {"train_class_accuracy": [0.5] * len(NAMES)})
        write_results(folder, survives, labels=LABELS, **ATTACKS)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write(folder, lambda levels: True)
    return folder


def test_it_is_that_of_compare_where_most_remedies_are_done(workdir):
    found = answers.answer(STUDY, plan(), workdir)["price_list"]
    folders = [running.folder(workdir, run) for run in plan() if run.levels["architecture"] == "cnn"]
    assert found == trade_off(folders, split="test") | {"settings": 2, "setting": "cnn"}
    verdicts = {row["name"]: row["attacks"][found["judge"]]["worst"] for row in found["methods"] if not row["is_base"]}
    assert [verdict["significant"] for verdict in verdicts.values()] == [True, False]


def test_the_page_says_what_helps_and_where(workdir, tmp_path):
    found = answers.answer(STUDY, plan(), workdir)
    page = html.unescape(study_pages.write(tmp_path, found).read_text())
    said = study_findings.on_remedies(found["price_list"])
    assert any("wat" in row.what for row in said) and all(row.what in page and row.note in page for row in said)
    assert said[-1].value == "1 of 2" and said[-1].note == "cnn"
    assert {"price_list.html", "price_list.csv"} <= {file.name for file in (tmp_path / "price-list").iterdir()}


@pytest.mark.parametrize(
    "wanted, words",
    [
        (lambda levels: levels["remedy"] == "plain", "no remedy other than plain is done"),
        (lambda levels: levels["remedy"] != "plain", "no run of the base, plain,"),
    ],
)
def test_what_is_missing_is_said(wanted, words, tmp_path):
    write(tmp_path, wanted)
    found = answers.answer(STUDY, plan(), tmp_path)
    (row,) = study_findings.on_remedies(found["price_list"])
    assert words in row.note and row.note in study_pages.write(tmp_path, found).read_text()
