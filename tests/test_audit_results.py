"""The figures of an audit by hand, and pages of audits of few, many and missing classes."""

import json

import numpy as np
import pytest

from jaxrobust import files
from jaxrobust.audit import results as audit_results
from jaxrobust.reports import audit as report_audit

ABOUT = {"step": 7, "epoch": 2, "weights": "raw", "split": "test", "norm": "linf", "eps": 0.2}
RADII = [0.1, 0.2, 0.4]


def state(**settings):
    return {
        "settings": settings | {"attack": "a+b", "members": ["a", "b"]},
        "passes": 30.0,
        "idle": 3.0,
        "seconds": 1.5,
    }


def figures(labels, breaking, targets, reached, classes, validation=None):
    arrays = {"labels": labels, "breaking_radius": breaking, "targets": targets, "reached": reached}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    states = {"curve": state(radii=RADII), "matrix": state()}
    about = ABOUT | {"classes": classes, "whole": 2 * len(labels)}
    return json.loads(files.to_json(audit_results.figures(arrays, states, about, validation)))


def few(validation=None):
    return figures(
        labels=[0, 0, 0, 0, 1, 1],
        breaking=[0.0, 0.1, 0.1, np.inf, 0.4, np.inf],
        targets=[[1], [1], [1], [1], [0], [0]],
        reached=[[True], [True], [False], [True], [False], [False]],
        classes=["a", "b", "nobody"],
        validation=validation,
    )


def test_figures_by_hand():
    content = few()
    curve, matrix = content["curve"], content["matrix"]
    assert content["examples"] == 6 and content["whole"] == 12 and content["count"] == [4, 2, 0]
    assert curve["radii"] == [0, *RADII]
    assert curve["correct"] == [[3, 2, 0], [1, 2, 0], [1, 2, 0], [1, 1, 0]]
    assert curve["accuracy"] == [5 / 6, 1 / 2, 1 / 2, 1 / 3] and curve["worst_class"] == ["a"] * 4
    assert curve["half"]["radius"] == 0.1 and curve["half"]["class_radius"] == [0.1, 0.4, None]
    assert (curve["passes"], curve["idle"], curve["seconds"], curve["members"]) == (5, 0.1, 1.5, ["a", "b"])
    assert not matrix["complete"], "nobody was pushed to the third class"
    assert matrix["turned"] == [[0, 3, 0], [0, 0, 0], [0, 0, 0]] and matrix["share"][0] == [None, 0.75, None]
    assert matrix["exposure"] == [0.75, 0, None] and matrix["most_exposed"] == ["a", "b"]
    assert matrix["missed_by_curve"] == 1, "the one that no radius breaks"
    pair = content["focused"]["pair"]
    assert (pair["source"], pair["target"], pair["turned"], pair["of"]) == ("a", "b", 3, 4)


def test_the_focused_attacker_knows_the_weakest_class_from_validation():
    here = few()["focused"]["class"]
    assert (here["target"], here["chosen_on"], here["simultaneous"], here["success"]) == ("a", "test", True, 0.75)
    record = {"correct": [9, 5, 0], "count": [10, 10, 10], "split": "validation", "attack": "pgd20"}
    known = few(record)["focused"]["class"]
    # Of the third class, the weakest there, this split has no example.
    assert (known["target"], known["chosen_on"], known["chosen_by"]) == ("b", "validation", "pgd20")
    assert not known["simultaneous"] and known["gain"] == pytest.approx(0 - 3 / 6) and known["interval"][1] < 0.2


def test_damaged_arrays_are_made_again(tmp_path, capsys):
    store = audit_results.Store(tmp_path, 7, "raw", "test")
    store.keep("curve", {"settings": {"a": 1}, "seconds": 1.0}, {"labels": np.zeros(3), "x": np.arange(3)})
    kept, arrays = store.part("curve", {"a": 1}, ("x",))
    assert kept["settings"] == {"a": 1} and arrays["x"].tolist() == [0, 1, 2]
    assert store.part("curve", {"a": 2}, ("x",)) is None and store.part("curve", {"a": 1}, ("y",)) is None
    store.path.write_bytes(store.path.read_bytes()[:50])
    assert store.part("curve", {"a": 1}, ("x",)) is None
    assert "computed again" in capsys.readouterr().err


@pytest.mark.parametrize("num_classes, targets", [(2, 1), (10, 9), (40, 5), (150, 3)])
def test_pages_of_any_number_of_classes(tmp_path, num_classes, targets):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), 4)
    others = np.stack([rng.permutation(np.delete(np.arange(num_classes), c))[:targets] for c in labels])
    content = figures(
        labels,
        rng.choice([0, *RADII, np.inf], len(labels)),
        others,
        rng.random(others.shape) < 0.2,
        [f"<class {c}>" for c in range(num_classes)],
    )
    assert ("share" in content["matrix"]) == (num_classes <= audit_results.MATRIX_CLASSES)
    assert content["matrix"]["complete"] == (targets == num_classes - 1)
    audit_results.AUDIT.write(tmp_path, content)
    page = report_audit.page(audit_results.AUDIT.read(tmp_path))
    assert ("matrix" in page["figures"]) == (num_classes <= 30)
    assert len(page["half"].bodies[0]) == num_classes
    found = report_audit.findings(page)
    assert found[0].value == f"{100 * page['curve']['accuracy'][page['curve']['radii'].index(page['eps'])]:.1f} %"
    assert [row for row in found if row.what.startswith("most often turned")] and found[0].interval
    assert "<svg" in page["figures"]["curve"] and "<class" not in page["figures"]["curve"]
