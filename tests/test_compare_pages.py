"""Findings, tables and page of a comparison."""

import io

import numpy as np
import pytest
from rich.console import Console
from test_report import Page

from jaxrobust import formatting
from jaxrobust.comparison.compare import compare
from jaxrobust.reports import compare as compare_pages

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FACTS = {"data": "tfds:cifar10", "model": "lenet5"}


def _figures(robust_a, robust_b, labels, names, attacks=("pgd20",), **changes):
    of = compare(labels, robust_a, robust_b, names).to_json()
    run = {"step": 1000, "epoch": 10, "weights": "averaged", "checkpoint": "best", "facts": FACTS}
    return {
        "a": run | {"workdir": "runs/plain", "name": "plain"},
        "b": run | {"workdir": "runs/remedied", "name": "remedied", "facts": FACTS | {"remedy": "faal"}},
        "split": "test",
        "examples": len(labels),
        "confidence": 0.95,
        "level": 0.05,
        "headline": attacks[0],
        "attacks": dict.fromkeys(attacks, of),
        "notes": [],
    } | changes


def _simulated(num_classes, per_class=100, gain=(), names=None, **changes):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), per_class)
    draw = rng.random(labels.size)
    accuracy_b = np.full(num_classes, 0.5)
    accuracy_b[: len(gain)] += gain
    names = names or (NAMES if num_classes == 10 else [f"class {i}" for i in range(num_classes)])
    return _figures(draw < 0.5, draw < accuracy_b[labels], labels, names, **changes)


def _shown(figures):
    console = Console(file=io.StringIO(), width=160)
    for title, table in compare_pages.tables(figures):
        console.print(title)
        console.print(table)
    return console.file.getvalue()


def test_findings_are_the_classes_that_differ_the_average_and_the_worst():
    figures = _simulated(10, 400, gain=(-0.3, 0.4))
    found = {row.what: row for row in compare_pages.findings(figures)}
    assert list(found) == ["classes that differ", "airplane", "automobile", "average", "worst class", "scope"]
    assert found["classes that differ"].value == "2 of 10" and "Holm" in found["classes that differ"].note
    of = figures["attacks"]["pgd20"]
    for name, row in (("airplane", of["classes"][0]), ("automobile", of["classes"][1]), ("worst class", of["worst"])):
        assert found[name].value == formatting.points(row["difference"])
        assert found[name].interval == formatting.interval(row["interval"])
    verdicts = [found[name].verdict for name in ("airplane", "automobile", "worst class", "scope")]
    assert verdicts == ["lower", "higher", "lower", "caution"]
    assert "(airplane)" in found["worst class"].note and found["scope"].value == "4,000 images"


def test_findings_of_equal_runs():
    count, average, worst, _ = compare_pages.findings(_simulated(10, attacks=("clean",)))
    assert count.value == "0 of 10" and average.value == worst.value == "0.0"
    assert average.verdict == worst.verdict == "not significant"


def test_findings_name_a_few_of_many_classes():
    found = compare_pages.findings(_simulated(100, 200, gain=np.full(20, 0.3)))
    assert found[0].value == "20 of 100" and len([row for row in found if row.what.startswith("class ")]) == 5


def test_table_of_few_classes_shows_all_with_the_losses_first():
    shown = _shown(_simulated(10, gain=(-0.3, 0.4), attacks=("standard", "standard/apgd_ce")))
    assert all(name in shown for name in (*NAMES, "average", "worst class", "standard/apgd_ce"))
    assert shown.index("airplane") < shown.index("bird") < shown.index("automobile")
    assert "A = runs/plain (best checkpoint, epoch 10, averaged weights)" in shown


def test_table_of_many_classes_shows_both_ends():
    shown = _shown(_simulated(1000, 20, gain=(-0.5, 0.5)))
    assert "... 980 classes between" in shown
    assert "class 0 " in shown and "class 1 " in shown and len(shown.splitlines()) < 50


def test_page_is_whole_and_says_what_is_compared(tmp_path):
    figures = _simulated(10, gain=(-0.3, 0.4), attacks=("standard", "clean"), notes=["cw20 is left out: why not."])
    page = Page(compare_pages.write(tmp_path, figures))
    assert not (page.open or page.misnested or page.outside) and len(page.ids) == len(set(page.ids))
    assert all(list(row) in page.rows for row in compare_pages.findings(figures)) and figures["notes"][0] in page.text
    assert ["run", "runs/plain", "runs/remedied"] in page.rows and ["remedy", formatting.NOTHING, "faal"] in page.rows
    assert [row[0] for row in page.rows if len(row) == 10][1:11][0] == "airplane"
    assert page.text.count("may be the worst") >= 2


@pytest.mark.parametrize("num_classes", [100, 1000])
def test_page_of_many_classes(tmp_path, num_classes):
    page = Page(compare_pages.write(tmp_path, _simulated(num_classes, 10)))
    assert len([row for row in page.rows if len(row) == 10]) == num_classes + 1
    assert not (page.open or page.misnested)


def test_absent_class_and_hostile_names(tmp_path):
    names = ['<b>&"x', "<script>alert(1)</script>", "[bold]", "elk"]
    figures = _simulated(3, names=names)
    page = Page(compare_pages.write(tmp_path, figures))
    assert page.scripts == 1 and "<b>" not in page.source
    assert "Without images, and left out: elk." in page.text and names[0] in page.text
    assert "[bold]" in _shown(figures)


def test_file_names_hold_no_slash_and_do_not_collide(tmp_path):
    attacks = ("standard/apgd_ce", "standard-apgd_ce", "standard apgd_ce", "../pgd")
    names = compare_pages.file_names(attacks)
    assert names["standard/apgd_ce"] == "differences-standard-apgd_ce"
    assert len(set(names.values())) == 4 and not any("/" in name for name in names.values())
    compare_pages.write(tmp_path, _simulated(3, attacks=attacks[:2]))
    assert len(list(tmp_path.iterdir())) == 5
