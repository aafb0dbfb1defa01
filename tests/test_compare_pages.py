"""Sentences, tables and page of a comparison."""

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


def test_sentences_name_what_differs():
    classes, average, worst, scope = compare_pages.conclusion(_simulated(10, 400, gain=(-0.3, 0.4)))
    assert classes.startswith("Under pgd20, 2 classes differ significantly (at 5 %")
    assert "Holm's correction over 10 classes" in classes
    assert "B is worse on airplane (-" in classes and ", and B is better on automobile (+" in classes
    assert average.startswith("The average does not differ significantly") or "B's average is" in average
    assert worst.startswith("The worst class's accuracy differs significantly") and "(airplane) in B" in worst
    assert "4,000 test images, not the training seed" in scope


def test_sentences_of_equal_runs():
    figures = _simulated(10, attacks=("clean",))
    classes, average, worst, _ = compare_pages.conclusion(figures)
    assert classes.startswith("Without attack, no class differs significantly")
    assert "does not differ significantly: 0.0 points" in average and "does not differ" in worst


def test_sentences_name_a_few_of_many_classes():
    (classes, *_) = compare_pages.conclusion(_simulated(100, 200, gain=np.full(20, 0.3)))
    assert classes.startswith("Under pgd20, 20 classes differ") and "and 15 more" in classes


def test_table_of_few_classes_shows_all_with_the_losses_first():
    shown = _shown(_simulated(10, gain=(-0.3, 0.4), attacks=("standard", "standard/apgd_ce")))
    assert all(name in shown for name in (*NAMES, "average", "worst class", "standard/apgd_ce"))
    assert shown.index("airplane") < shown.index("bird") < shown.index("automobile")
    assert "A = runs/plain (best checkpoint, epoch 10, averaged weights)" in shown


def test_table_of_many_classes_shows_both_ends():
    shown = _shown(_simulated(1000, 20, gain=(-0.5, 0.5)))
    assert "... 980 classes between" in shown
    assert "class 0 " in shown and "class 1 " in shown and len(shown.splitlines()) < 40


def test_page_is_whole_and_says_what_is_compared(tmp_path):
    figures = _simulated(10, gain=(-0.3, 0.4), attacks=("standard", "clean"), notes=["cw20 is left out: why not."])
    page = Page(compare_pages.write(tmp_path, figures))
    assert not (page.open or page.misnested or page.outside) and len(page.ids) == len(set(page.ids))
    for sentence in (*compare_pages.conclusion(figures), *figures["notes"]):
        assert sentence in page.text
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
    assert "[bold]" in _shown(figures) and "elk" not in _shown(figures)


def test_file_names_hold_no_slash_and_do_not_collide(tmp_path):
    attacks = ("standard/apgd_ce", "standard-apgd_ce", "standard apgd_ce", "../pgd")
    names = compare_pages.file_names(attacks)
    assert names["standard/apgd_ce"] == "differences-standard-apgd_ce"
    assert len(set(names.values())) == 4 and not any("/" in name for name in names.values())
    compare_pages.write(tmp_path, _simulated(3, attacks=attacks[:2]))
    assert len(list(tmp_path.iterdir())) == 5
