import numpy as np
import pytest

from jaxrobust.runs import results

LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
CLEAN = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 0])
ATTACKED = np.array([0, 1, 1, 1, 1, 2, 2, 2, 0, 0])


def record(**changes):
    fields = dict(step=10, epoch=1, weights="raw", split="test", attack="pgd20", class_names=("a", "b", "c"))
    fields |= dict(labels=LABELS, prediction=ATTACKED, clean_prediction=CLEAN, eps=0.03)
    fields |= dict(passes=41.23456, idle=0.12345, seconds=1.23456)
    return results.make_record(**fields | changes)


def test_record_by_hand():
    r = record()
    assert (r["count"], r["correct"], r["examples"]) == ([4, 2, 4], [1, 1, 2], 10)
    assert r["accuracy"] == pytest.approx(0.4) and r["class_accuracy"] == [0.25, 0.5, 0.5]
    assert r["balanced_accuracy"] == pytest.approx(1.25 / 3)
    assert (r["worst_class"], r["worst_class_accuracy"], r["best_class"], r["gap"]) == ("a", 0.25, "b", 0.25)
    assert r["boundary_error"] == [0.5, 0.5, 0.25]
    assert r["confusion"] == [[1, 3, 0], [0, 1, 1], [2, 0, 2]]
    assert r["std"] == pytest.approx(np.std([0.25, 0.5, 0.5])) and r["eps"] == 0.03
    for (low, high), accuracy in zip(r["class_interval"], r["class_accuracy"], strict=True):
        assert 0 <= low < accuracy < high <= 1


def test_clean_has_no_boundary_error():
    assert record(attack="clean", prediction=CLEAN)["boundary_error"] is None


def test_confusion_is_left_out_for_many_classes():
    names = [str(c) for c in range(results.CONFUSION_CLASSES + 1)]
    assert "confusion" not in record(class_names=names)


def test_examples_round_trip(tmp_path):
    arrays = {"labels": LABELS, "clean": CLEAN == LABELS}
    for name, array in arrays.items():
        results.add_examples(tmp_path, 5, "raw", "test", {name: array})
    loaded = results.read_examples(tmp_path, 5, "raw", "test")
    assert loaded.keys() == arrays.keys()
    np.testing.assert_array_equal(loaded["clean"], arrays["clean"])
    assert results.read_examples(tmp_path, 6, "raw", "test") == {}


def test_examples_that_cannot_be_read_are_missing_and_said_to_be(tmp_path, capsys):
    results.add_examples(tmp_path, 5, "raw", "test", {"labels": LABELS})
    path = results.examples_path(tmp_path, 5, "raw", "test")
    path.write_bytes(path.read_bytes()[:-30])
    assert results.read_examples(tmp_path, 5, "raw", "test") == {}
    assert "cannot be read" in capsys.readouterr().err


def validation(step, weights, accuracy, worst, attack="pgd20", split="validation"):
    fields = {"step": step, "epoch": step, "weights": weights, "attack": attack, "split": split}
    return fields | {"accuracy": accuracy, "worst_class_accuracy": worst}


@pytest.mark.parametrize("criterion, step", [("average", 3), ("worst", 1), ("sum", 2)])
def test_best_by_each_criterion(criterion, step):
    records = [validation(1, "raw", 0.40, 0.30), validation(2, "raw", 0.48, 0.25), validation(3, "raw", 0.50, 0.10)]
    assert results.find_best(records, attack="pgd20", criterion=criterion)["step"] == step


def test_best_looks_at_validation_and_its_attack_alone():
    records = [
        validation(1, "raw", 0.4, 0.3),
        validation(2, "raw", 0.9, 0.9, split="test"),
        validation(3, "raw", 0.9, 0.9, attack="clean"),
    ]
    assert results.find_best(records, attack="pgd20", criterion="sum")["step"] == 1
    assert results.find_best(records[1:], attack="pgd20", criterion="sum") is None


def test_best_of_equals_is_the_earliest_and_raw():
    records = [validation(2, "raw", 0.4, 0.3), validation(1, "averaged", 0.4, 0.3), validation(1, "raw", 0.4, 0.3)]
    best = results.find_best(records, attack="pgd20", criterion="sum")
    assert (best["step"], best["weights"]) == (1, "raw")
