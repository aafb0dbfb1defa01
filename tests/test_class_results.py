"""What is said of the worst class and of a suite, against numbers by hand."""

import json

import numpy as np
import pytest

from jaxrobust.reports import suites as report_suites
from jaxrobust.runs import class_summary, results

NAMES = ("a", "b", "c", "empty")
LABELS = np.repeat([0, 1, 2], 20)
RANK = np.tile(np.arange(20), 3)
# Of 20 examples each: a keeps 10, 9 under the suite; b 8 and 8, of which one is another; c 12 and 4.
ROBUST = {
    "clean": RANK < 20,
    "pgd10": RANK < 15,
    "pgd20": np.array([10, 8, 12])[LABELS] > RANK,
    "standard/apgd_ce": np.array([9, 9, 6])[LABELS] > RANK,
    "standard/square": (np.array([9, 9, 4])[LABELS] > RANK) & ~((LABELS == 1) & (RANK == 0)),
}
ROBUST["standard"] = ROBUST["standard/square"]
COST = {"passes": 100.0, "idle": 0.1, "seconds": 2.0}


def _scores(*left_out, **settings):
    scores, clean = {}, LABELS
    for attack, is_robust in ROBUST.items():
        if attack in left_out:
            continue
        record = results.make_record(
            step=1,
            epoch=1,
            weights="raw",
            split="test",
            attack=attack,
            class_names=NAMES,
            labels=LABELS,
            prediction=np.where(is_robust, LABELS, (LABELS + 1) % 3),
            clean_prediction=clean,
            **COST,
            norm="linf",
            **(settings | {"members": ["apgd_ce", "square"]} if attack == "standard" else settings),
        )
        scores[attack] = results.Result.of(record)
    return scores


def _examples(*left_out):
    return {"labels": LABELS} | {attack: flags for attack, flags in ROBUST.items() if attack not in left_out}


@pytest.fixture(scope="module")
def truth():
    return class_summary.class_truth(_scores(), _examples())


def test_truth_is_json_as_it_is(truth):
    assert json.loads(json.dumps(truth, allow_nan=False)) == truth
    assert truth["strongest"] == "standard" and list(truth["attacks"]) == ["clean", "pgd10", "pgd20", "standard"]


def test_worst_class_by_hand(truth):
    worst = truth["attacks"]["standard"]["worst"]
    assert worst["classes"] == ["c"] and worst["accuracy"] == 0.2
    assert worst["candidates"][0]["name"] == "c"
    assert worst["interval"][0] < 0.2 < worst["interval"][1]
    assert sum(worst["probability"]) == pytest.approx(1, abs=1e-3) and worst["probability"][3] == 0
    assert worst["probability"][2] == max(worst["probability"]) > 0.65
    # All alike: no class is likelier than another, and all of them may be the worst.
    clean = truth["attacks"]["clean"]["worst"]
    assert clean["classes"] == ["a", "b", "c"] and len(clean["candidates"]) == 3
    np.testing.assert_allclose(clean["probability"], [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-3)


def test_stages_by_hand(truth):
    first, second = truth["suites"]["standard"]["stages"]
    assert (first["attack"], first["accuracy"], first["worst"], first["broken"]) == ("apgd_ce", 0.4, ["c"], 36)
    assert (second["attack"], second["worst_class_accuracy"], second["broken"]) == ("square", 0.2, 3)
    assert {name: second[name] for name in COST} == COST
    # Auto-PGD: a gradient, two passes, to start and one a step, on all 60; Square: 5,001 passes on 24 of them.
    assert first["passes_in_full"] == pytest.approx(202)
    assert second["passes_in_full"] == pytest.approx(5001 * 24 / 60)
    without_clean = class_summary.stages(_scores("clean"), "standard")
    assert [stage["broken"] for stage in without_clean] == [None, 3]
    assert without_clean[0]["passes_in_full"] is None


def test_loss_by_hand(truth):
    loss = truth["suites"]["standard"]["loss"]
    assert loss["before"] == "pgd20"  # of more steps than pgd10
    of = loss["classes"]
    np.testing.assert_allclose(of["before"][:3], [0.5, 0.4, 0.6])
    np.testing.assert_allclose(of["after"][:3], [0.45, 0.4, 0.2])
    np.testing.assert_allclose(of["loss"][:3], [0.05, 0, 0.4], atol=1e-12)
    assert (of["lost"], of["gained"]) == ([1, 1, 8, 0], [0, 1, 0, 0])
    assert of["loss"][3] is None
    assert all(low <= value <= high for value, (low, high) in zip(of["loss"][:3], of["interval"], strict=False))
    assert loss["average"]["lost"] == 10 and loss["average"]["loss"] == pytest.approx(9 / 60)
    assert (loss["worst_before"], loss["worst_after"], loss["worst_changed"]) == (["b"], ["c"], True)


def test_loss_needs_pgd_and_results_per_image():
    no_pgd = ("pgd10", "pgd20")
    assert class_summary.loss(_scores(*no_pgd), _examples(*no_pgd), "standard") is None
    assert class_summary.loss(_scores(), {}, "standard") is None
    assert class_summary.loss(_scores(), _examples("pgd20"), "standard")["before"] == "pgd10"


def test_a_first_member_is_pgd_where_nothing_else_is():
    scores = _scores("pgd10", "pgd20")
    scores["standard"].record["members"] = ["pgd20", "square"]
    examples = _examples("pgd10", "pgd20") | {"standard/pgd20": ROBUST["pgd20"]}
    assert class_summary.loss(scores, examples, "standard")["before"] == "standard/pgd20"


@pytest.mark.parametrize(
    "attack, classes, settings, words",
    [
        ("apgd_ce", 10, {"steps": 100, "loss": "cross_entropy"}, "100 steps, cross entropy loss"),
        (
            "apgd_t",
            100,
            {"steps": 100, "targets": 9, "loss": "targeted dlr"},
            "100 steps, targeted dlr loss, 9 of 99 targets",
        ),
        (
            "apgd_t",
            2,
            {"steps": 100, "targets": 1, "loss": "targeted margin"},
            "100 steps, targeted margin loss, 1 of 1 targets",
        ),
        ("fab_t", 5, {"steps": 100, "targets": 4, "restarts": 5}, "100 steps, 5 restarts, 4 of 4 targets"),
        ("square", 10, {"steps": 5000, "loss": "margin"}, "5,000 queries, margin loss"),
        ("own", 10, {}, ""),
    ],
)
def test_settings_in_words(attack, classes, settings, words):
    assert class_summary.in_words(attack, settings | {"classes": ["x"] * classes}) == words


def test_page_orders_by_loss_and_leaves_out_empty_classes(truth):
    page = report_suites.page(truth)
    suite = page["suites"]["standard"]
    assert [row[0].text for row in suite["losses"].bodies[0]] == ["c", "a", "b"]
    _, ((together, *sums),) = suite["stages"].bodies
    texts = {column.name: cell.text for column, cell in zip(suite["stages"].columns[1:], sums, strict=True)}
    assert together.text == "together" and texts["broken by it"] == "39"
    assert (texts["passes per image"], texts["idle"], texts["seconds"]) == ("200", "10.0 %", "4")
    assert suite["figure"].startswith("<svg") and page["worst_figure"].startswith("<svg")
    assert "empty" not in suite["figure"]


def test_classes_of_one_name_are_told_apart():
    twice = {name: results.Result.of(score.record | {"classes": ["same"] * 4}) for name, score in _scores().items()}
    page = report_suites.page(class_summary.class_truth(twice, _examples()))
    assert len(page["suites"]["standard"]["losses"].bodies[0]) == 3
