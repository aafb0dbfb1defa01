"""The report of whole, partial and broken runs: complete, self-contained, and plain about what is missing."""

import io
import json
import re

import numpy as np
import pytest
from parsed_page import Page
from reported_runs import CLEAN, CONFIG, NAMES, PGD, SUITE, write_run
from rich.console import Console

from jaxrobust.commands import front_end
from jaxrobust.errors import UserError
from jaxrobust.reports import run as run_page
from jaxrobust.runs import results

SMALL = {"names": ["a", "b"], "clean": [0.9, 0.8], "robust": [0.3, 0.4], "per_class": 50, "steps": (100,)}


def read_page(workdir) -> Page:
    page = Page(run_page.write_report(workdir))
    assert page.misnested == [] and page.open == []
    assert page.outside == []
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE) and "None" not in page.text
    return page


def test_report_of_a_whole_run(tmp_path):
    page = read_page(write_run(tmp_path))
    assert "The best checkpoint (epoch 1, averaged weights) on the 10,000 test images" in page.text
    assert ["average under pgd20", "43.7 %", "[42.7, 44.7]", "", ""] in page.rows
    assert ["worst class: cat", "16.2 %", "[14.0, 18.6]", "", ""] in page.rows
    assert ["classes that may be the worst", "1 of 10", "", "", "with probability: cat (1.00)"] in page.rows
    assert "Missing from this run" not in page.text
    for fact in ("tfds:cifar10", "preact_resnet18", "L∞ ball of radius 8/255", "pgd_at", "seed 7"):
        assert fact in page.text
    assert ["cat", "1,000", "68.2 [65.2, 71.0]", "16.2 [14.0, 18.6]", "52.0"] in page.rows
    names = [row[0] for row in page.rows if len(row) == 5 and row[1] == "1,000"]
    assert names == [NAMES[c] for c in np.argsort(PGD)]
    assert "cat deer 838 of 1,000" in " ".join(" ".join(row[:2] + row[3:]) for row in page.rows)


@pytest.mark.parametrize("steps", [(100,), (100, 200)])
def test_catastrophic_overfitting_is_told(tmp_path, steps):
    """Also where only one checkpoint is scored, and so no curve drawn."""
    write_run(tmp_path, steps=steps)
    assert "Catastrophic" not in read_page(tmp_path).text
    for epoch in (3, 4):
        line = {"epoch": epoch, "step": 100 * epoch, "train_class_accuracy": [0.9] * len(NAMES)}
        results.append_training(tmp_path, line | {"catastrophic_overfitting": True})
    assert "Catastrophic overfitting from epoch 3 on: training" in read_page(tmp_path).text


def test_every_figure_is_reported_and_defined(tmp_path):
    page = read_page(write_run(tmp_path))
    summaries = [row[-10:] for row in page.rows if len(row) >= 10 and "pgd20" in row]
    figures = ["43.7 [42.7, 44.7]", "43.7", "16.2 [14.0, 18.6]", "cat", "48.7", "16.0", "0.366", "0.284", "16.2"]
    assert summaries == [["pgd20", *figures]] * 3  # best, last raw, last averaged
    definitions = page.source[page.source.index('id="definitions"') : page.source.index('id="config"')]
    defined = " ".join(re.findall("<dt>(.*?)</dt>", definitions))
    figures = "robust accuracy, average, balanced, worst class, best class, gap, std, cv, nsd, bottom-1, boundary error"
    for term in (*figures.split(", "), "confusion", "intervals", "strongest attack", "raw and averaged weights"):
        assert term in defined
    assert ["pgd20", "L∞", "8/255", "2/255", "20", "1", "10,000", "1.0"] in page.rows
    assert "selected on 10,000 validation images only, by sum" in page.text
    assert ["train.seed", "7"] in page.rows


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"weights": ("raw",)}, "no averaged weights"),
        ({"steps": (100,)}, "Only one checkpoint has been scored"),
        ({"steps": (100,)}, "the last scored epoch is 1 of 2"),
        ({"splits": ("test",), "best": False}, "No validation split"),
        ({"best": False}, "No checkpoint was selected (no best.json)"),
        ({"splits": ("validation",)}, "every figure on this page is from the validation split"),
        ({"attacks": ("clean",)}, "No attack has been scored"),
        ({"attacks": ("pgd20",)}, "Clean accuracy has not been scored"),
        ({"per_class": np.array([50] * 9 + [0])}, "Classes without examples in the test split"),
        ({"names": ["a", "b"], "clean": [1.0, 0.9], "robust": [0.5, 0.0], "per_class": 20, "best": False}, "no best"),
    ],
)
def test_partial_runs_say_what_is_missing(tmp_path, options, sentence):
    assert sentence in read_page(write_run(tmp_path, **options)).text


@pytest.mark.parametrize("name", [results.TRAINING, results.BEST])
def test_a_missing_file_is_named(tmp_path, name):
    (write_run(tmp_path, **SMALL) / name).unlink()
    assert f"{name})" in read_page(tmp_path).text


def test_missing_examples_are_no_error(tmp_path):
    for path in (write_run(tmp_path, **SMALL) / results.EXAMPLES).iterdir():
        path.unlink()
    assert "Largest confusions, pgd20" in read_page(tmp_path).text


def test_best_checkpoint_that_is_not_scored_yet(tmp_path):
    write_run(tmp_path, **SMALL)
    best = {"step": 300, "epoch": 3, "weights": "raw", "criterion": "sum", "score": 0.6}
    (tmp_path / results.BEST).write_text(json.dumps(best))
    page = read_page(tmp_path)
    assert "step 300, raw weights) has not been scored on test yet" in page.text
    assert "The last checkpoint (" in page.text


def test_checkpoints_scored_under_different_attacks(tmp_path):
    write_run(tmp_path, **SMALL)
    write_run(tmp_path, **SMALL | {"steps": (200,)}, attacks=("clean",))
    assert ["best and last", "averaged", "2", "200"] in [row[:4] for row in read_page(tmp_path).rows]
    best = {"step": 100, "epoch": 1, "weights": "raw", "criterion": "sum", "score": 0.6}
    (tmp_path / results.BEST).write_text(json.dumps(best))
    page = read_page(tmp_path)
    assert "The best checkpoint (" in page.text and "average under pgd20" in page.text
    assert ["last", "raw", "2", "200", "not scored"] in [row[:5] for row in page.rows]


@pytest.mark.parametrize("num_classes", [100, 150])
def test_many_unbalanced_classes(tmp_path, num_classes):
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.5, 1, num_classes)
    names = [f"class {i}" for i in range(num_classes)]
    per_class = rng.integers(5, 30, num_classes)
    write_run(tmp_path, names=names, clean=clean, robust=clean / 2, per_class=per_class, steps=(100,))
    page = read_page(tmp_path)
    # Above 100 classes the results hold no confusion, so this one comes from the examples.
    assert "Largest confusions, pgd20" in page.text
    assert f"bottom-{num_classes // 10}" in page.text


def test_unequal_classes_are_weighed_both_ways(tmp_path):
    """90 and 10 images: 0.9 * 30 + 0.1 * 40 = 31 % of the images under PGD, 35 % if the classes weigh the same."""
    run = SMALL | {"per_class": np.array([90, 10])}
    page = read_page(write_run(tmp_path, **run, standard=[0.2, 0.1]))
    assert ["average under standard", "19.0 %", "[12.5, 27.8]", "", ""] in page.rows
    assert ["balanced average under standard", "15.0 %", "[7.2, 28.8]", "", ""] in page.rows
    headers = [row for row in page.rows if "balanced" in row]
    assert len(headers) == 4  # the checkpoints, the worst classes, the stages, every figure
    assert {row[2].split()[0] for row in page.rows if row[0] in ("apgd_t 20 steps", "together", "standard")} >= {"15.0"}
    assert all(len(row) == len(headers[2]) for row in page.rows if row[0] in ("apgd_t 20 steps", "together"))
    rows = terminal_rows(tmp_path)
    assert rows["average"] == ["89.0", "31.0", "19.0"]
    assert rows["balanced"] == ["85.0", "35.0", "15.0"]


def test_equal_classes_show_one_average(tmp_path):
    """Both averages are the same; a class without examples takes no part in either."""
    page = read_page(
        write_run(
            tmp_path,
            **SMALL
            | {"per_class": np.array([50, 50, 0]), "names": ["a", "b", "c"]}
            | {"clean": [0.9, 0.8, 0], "robust": [0.3, 0.4, 0]},
        )
    )
    assert "balanced average" not in page.text.partition("Definitions")[0]
    assert len([row for row in page.rows if "balanced" in row]) == 1  # every figure
    assert "balanced" not in terminal_rows(tmp_path)


def terminal_rows(workdir) -> dict[str, list[str]]:
    """The cells of the terminal's table by the first of their row."""
    _, table = run_page.class_table(workdir)
    rows = [[cell.text for cell in row] for body in table.bodies for row in body]
    return {row[0]: row[2:] for row in rows}


def test_hostile_names_are_text(tmp_path):
    hostile = '<b>&"x'
    write_run(tmp_path, names=[hostile, "<script>alert(1)</script>"], clean=[0.9, 0.8], robust=[0.3, 0.4], per_class=50)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"data": {"name": "</title><script>x</script>"}}))
    page = read_page(tmp_path)
    assert page.scripts == 1
    assert "<b>" not in page.source
    assert hostile in page.text
    assert [row[0] for row in page.rows if len(row) == 5 and row[1] == "50"] == [hostile, "<script>alert(1)</script>"]


def test_an_incomplete_last_line_is_left_out(tmp_path):
    write_run(tmp_path, **SMALL)
    before = run_page.write_report(tmp_path).read_text()
    with (tmp_path / results.RESULTS).open("a") as file:
        file.write('{"step": 300, "epo')
    assert run_page.write_report(tmp_path).read_text() == before


def test_report_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = run_page.write_report(write_run(tmp_path, **SMALL))
    before, files_before = path.read_text(), sorted(tmp_path.iterdir())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model": {"name": "another"}}))

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="disk full"):
            run_page.write_report(tmp_path)
    assert path.read_text() == before
    assert sorted(tmp_path.iterdir()) == files_before


def test_broken_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        run_page.write_report(tmp_path / "absent")
    with pytest.raises(UserError, match=r"has no results\.jsonl"):
        run_page.write_report(tmp_path)
    write_run(tmp_path, **SMALL)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        run_page.write_report(tmp_path)


def test_command(tmp_path, capsys):
    assert front_end.main(["report", write_run(tmp_path, **SMALL)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert front_end.main(["report"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:") and error.count("\n") == 1 and "WORKDIR" in error and "--help" in error

    assert front_end.main(["report", tmp_path / "absent"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no such folder" in error


@pytest.fixture(scope="module")
def suite_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("suite"), steps=(100,), weights=("raw",), standard=SUITE)


@pytest.fixture(scope="module")
def suite_page(suite_run):
    return read_page(suite_run)


def test_a_suite_is_reported_stage_by_stage_and_against_pgd(suite_page):
    page = suite_page
    found = {row[0]: row[1:] for row in page.rows if len(row) == 5}
    assert "The best and last checkpoint" in page.text and found["average under standard"][0] == "38.9 %"
    assert found["worst class, pgd20 to standard"][2:] == ["changes", "cat to deer"]
    assert found["lost from pgd20 to standard: deer"][0] == "14.4"
    assert found["lost from pgd20 to standard: deer"][3] == "22.4 % to 8.0 %"
    assert "No attack here searches without gradients" in page.text
    deer = next(row for row in page.rows if row[0] == "deer" and len(row) == 7)
    assert deer[:4] == ["deer", "1,000", "22.4", "8.0"] and deer[4].startswith("14.4 [12.") and deer[5:] == ["144", "0"]
    first, second, total = (row for row in page.rows if len(row) == 9 and row[2] == "deer")
    assert first[:5] == ["apgd_ce 20 steps", "38.9", "deer", "8.0", "4,523"]
    assert second[:5] == ["apgd_t 20 steps", "38.9", "deer", "8.0", "0"]
    # Nine targets of 203 passes on what Auto-PGD left, after 202 on the 84.13 % right to begin with.
    assert first[5:] == ["1", "170", "0.0 %", "1"] and second[6] == f"{0.389 * 1827:.0f}"
    assert total == ["together", "38.9", "deer", "8.0", "4,523", "2", "881", "0.0 %", "2"]


def test_members_of_suites_are_no_columns(suite_run, suite_page):
    page = suite_page
    assert ["class", "images", "clean", "pgd20", "standard", "boundary error"] in page.rows
    shown = [row[0] for row in page.rows if "/" in row[0]]
    assert sorted(shown) == ["standard/apgd_ce", "standard/apgd_t"]  # among the settings alone
    texts = set(re.findall(r"<text[^>]*>([^<]*)</text>", page.source))
    assert "standard" in texts and not any("apgd" in text for text in texts)
    _, table = run_page.class_table(suite_run)
    assert [column.name for column in table.columns] == ["class", "images", "clean", "pgd20", "standard"]


def test_a_suite_that_is_not_finished_is_missing(tmp_path):
    write_run(tmp_path, steps=(100,), standard=SUITE)
    path = tmp_path / results.RESULTS
    path.write_text(
        "".join(line for line in path.read_text().splitlines(keepends=True) if '"attack": "standard",' not in line)
    )
    page = read_page(tmp_path)
    assert "average under pgd20" in page.text
    assert "The suite standard is not finished: apgd_ce, apgd_t so far" in page.text


def test_classes_json_holds_what_the_page_shows(suite_run, suite_page):
    truth = json.loads((suite_run / results.CLASSES).read_text())
    assert {name: truth[name] for name in ("step", "epoch", "weights", "split", "strongest", "confidence")} == {
        "step": 100,
        "epoch": 1,
        "weights": "raw",
        "split": "test",
        "strongest": "standard",
        "confidence": 0.95,
    }
    assert list(truth["attacks"]) == ["clean", "pgd20", "standard"]
    assert truth["attacks"]["standard"]["worst"]["classes"] == ["deer"]
    assert truth["suites"]["standard"]["loss"]["worst_changed"]


def test_lost_verdicts_leave_no_loss_and_say_so(tmp_path):
    for path in (write_run(tmp_path, steps=(100,), standard=SUITE) / results.EXAMPLES).iterdir():
        path.unlink()
    page = read_page(tmp_path)
    assert (
        "No loss from PGD to standard" in page.text
        and "From pgd20 to standard" not in page.text
        and "lost from" not in page.text
    )


def test_classes_over_training_are_those_of_attacks_scored_more_than_once(tmp_path):
    write_run(tmp_path)
    write_run(tmp_path, steps=(200,), standard=SUITE)
    (tmp_path / results.BEST).unlink()
    page = read_page(tmp_path)
    assert "average under standard" in page.text and "The last checkpoint (" in page.text
    assert "Each class under pgd20, averaged weights" in page.text
    assert "Each class under standard, averaged weights" not in page.text


@pytest.mark.parametrize("width, columns", [(200, 6), (100, 4), (80, 3), (62, 2), (20, 1)])
def test_terminal_table_fits_and_breaks_no_interval(tmp_path, width, columns):
    more = {"fgsm": 0.9 * CLEAN, "cw20": 0.95 * PGD, "square": 0.99 * PGD, "standard": SUITE}
    _, table = run_page.class_table(write_run(tmp_path, steps=(100,), **more), width)
    output = io.StringIO()
    Console(file=output, width=width).print(table)
    lines = output.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    headers = [column.name for column in table.columns][2:]
    assert len(headers) == columns
    if columns > 1:
        (deer,) = (line for line in lines if "deer" in line)
        assert deer.count("]") == columns and "clean" in headers
        assert f"{6 - columns} more attack" in " ".join(output.getvalue().split()) or columns == 6
    assert "standard" in headers


def test_the_images_of_each_class_and_the_files_that_were_not_read(tmp_path):
    names = ["cat †", "dog"]
    write_run(tmp_path, **SMALL | {"names": names})
    assert "files not read" not in read_page(tmp_path).text
    counts = {"classes": names, "train": [30, 1132], "validation": [3, 4], "test": [50, 50]}
    results.DATA.write(tmp_path, counts | {"skipped": []})
    page = read_page(tmp_path)
    assert ["dog", "1,132", "4", "50"] in page.rows and "files not read" not in page.text
    results.DATA.write(tmp_path, counts | {"skipped": ["102 .heic", ""]})
    page = read_page(tmp_path)
    assert ["cat †", "30", "3", "50", "102 .heic"] in page.rows and "Classes marked † may have images" in page.text
