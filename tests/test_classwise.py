"""Counts, discrepancy figures and intervals against published and hand-computed numbers."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxrobust import classwise

# PGD adversarial training, PreActResNet-18, CIFAR-10, 1000 test images per class, correct under PGD-8/255:
# Xu et al., ICML 2021, figure 1b (one minus error), in the order airplane ... truck.
XU_CLEAN = np.array([880, 929, 762, 682, 800, 738, 891, 889, 933, 909])
XU_PGD = np.array([538, 649, 304, 162, 224, 333, 460, 549, 589, 562])
# A ResNet-18 trained and attacked with PGD-7 (rishanu98/Class-Wise-Adversarial-Robustness).
OTHER_PGD = np.array([550, 670, 300, 220, 270, 370, 550, 600, 660, 630])
THOUSAND = np.full(10, 1000)


def test_score_reproduces_published_figures():
    robust, clean = classwise.Score(XU_PGD, THOUSAND), classwise.Score(XU_CLEAN, THOUSAND)
    assert robust.accuracy == pytest.approx(0.437, abs=5e-4)
    assert robust.worst_class == 3 and robust.worst_class_accuracy == pytest.approx(0.162)
    assert robust.best_class == 1 and robust.best_class_accuracy == pytest.approx(0.649)
    assert robust.gap == pytest.approx(0.649 - 0.162)
    assert robust.std == pytest.approx(0.160, abs=5e-4)
    assert robust.cv == pytest.approx(0.366, abs=5e-4)
    assert robust.nsd == pytest.approx(0.160 / 0.563, abs=1e-3)
    assert (robust.bottom_k, robust.bottom_k_mean) == (1, pytest.approx(0.162))
    assert clean.accuracy == pytest.approx(0.841, abs=5e-4)
    assert clean.worst_class == 3 and clean.worst_class_accuracy == pytest.approx(0.682)
    assert clean.std == pytest.approx(0.084, abs=5e-4)


def test_score_reproduces_a_second_source():
    figures = classwise.Score(OTHER_PGD, THOUSAND)
    assert figures.accuracy == pytest.approx(0.482, abs=5e-4)
    assert figures.std == pytest.approx(0.165, abs=5e-4)
    assert figures.cv == pytest.approx(0.342, abs=5e-4)


def test_unbalanced_classes_weigh_by_examples_or_alike():
    figures = classwise.Score(correct=[90, 1], count=[100, 10])
    assert figures.accuracy == pytest.approx(91 / 110)
    assert figures.balanced_accuracy == pytest.approx(0.5)
    assert figures.std == pytest.approx(0.4)
    assert figures.cv == figures.nsd == pytest.approx(0.8)


def test_absent_class_is_left_out():
    figures = classwise.Score(correct=[0, 5, 8], count=[0, 10, 10])
    without = classwise.Score(correct=[5, 8], count=[10, 10])
    assert figures.class_accuracy == (None, 0.5, 0.8)
    assert (figures.worst_class, figures.best_class) == (1, 2)
    assert figures.metrics == without.metrics and figures.bottom_k == without.bottom_k
    assert (figures.interval, figures.balanced_interval) == (without.interval, without.balanced_interval)
    assert figures.class_interval == ((0, 1), *without.class_interval)


@pytest.mark.parametrize("correct, count", [([0, 0], [0, 0]), ([10, 10], [10, 10]), ([0, 0], [10, 10]), ([0], [0])])
def test_score_is_always_json(correct, count):
    score = classwise.Score(correct, count)
    json.dumps(score.to_record() | score.worst_record(), allow_nan=False)
    json.dumps(classwise.boundary_error(correct, correct, count), allow_nan=False)


def test_ratios_without_denominator_are_none():
    assert classwise.Score([10, 10], [10, 10]).nsd is None
    assert classwise.Score([0, 0], [10, 10]).cv is None


def test_ties_go_to_the_first_class():
    figures = classwise.Score([3, 9, 3, 9], [10, 10, 10, 10])
    assert (figures.worst_class, figures.best_class) == (0, 1)


@pytest.mark.parametrize("num_classes, k", [(2, 1), (10, 1), (11, 2), (100, 10), (1000, 100)])
def test_bottom_k_is_a_tenth_rounded_up(num_classes, k):
    figures = classwise.Score(np.arange(num_classes)[::-1], np.full(num_classes, num_classes))
    assert figures.bottom_k == k
    assert figures.bottom_k_mean == pytest.approx((k - 1) / 2 / num_classes)


def test_boundary_error_completes_the_robust_error():
    boundary = classwise.boundary_error(XU_CLEAN, XU_PGD, THOUSAND)
    np.testing.assert_allclose(boundary, (XU_CLEAN - XU_PGD) / 1000)
    assert classwise.boundary_error([0, 9], [0, 4], [0, 10]) == (None, pytest.approx(0.5))


def test_counts_by_hand():
    labels, predictions = np.array([0, 0, 1, 3, 3, 3]), np.array([0, 1, 1, 3, 0, 3])
    assert classwise.class_counts(labels, 4).tolist() == [2, 1, 0, 3]
    assert classwise.correct_counts(labels, labels == predictions, 4).tolist() == [1, 1, 0, 2]
    assert classwise.confusion(labels, predictions, 4).tolist() == [
        [1, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 0, 2],
    ]


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_confusion_agrees_with_the_counts(num_classes):
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(num_classes, size=(2, 5000))
    matrix = classwise.confusion(labels.astype(np.uint16), predictions, num_classes)
    np.testing.assert_array_equal(matrix.sum(1), classwise.class_counts(labels, num_classes))
    np.testing.assert_array_equal(matrix.sum(0), classwise.class_counts(predictions, num_classes))
    correct = classwise.correct_counts(labels, labels == predictions, num_classes)
    np.testing.assert_array_equal(np.diag(matrix), correct)


def test_what_has_no_prediction_is_in_no_column():
    assert classwise.confusion([0, 0, 1], [-1, 1, -1], 2).tolist() == [[0, 1], [0, 0]]
    with pytest.raises(ValueError, match="found -2"):
        classwise.confusion([0], [-2], 2)


def test_no_examples_count_zero():
    assert classwise.class_counts([], 3).tolist() == [0, 0, 0]
    assert classwise.confusion([], [], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: classwise.class_counts([0, 7], 3), r"labels must be in \[0, 3\); found 7"),
        (lambda: classwise.class_counts([0, -1], 3), "found -1"),
        (lambda: classwise.class_counts([0.0, 1.0], 3), "integers"),
        (lambda: classwise.correct_counts([0, 1], [0, 1], 3), "must be bool"),
        (lambda: classwise.correct_counts([0, 1], [True], 3), "one per label"),
        (lambda: classwise.confusion([0, 1], [0], 3), "same length"),
        (lambda: classwise.Score([3], [2]), "class 0: 3 correct of 2"),
        (lambda: classwise.Score([3, 1], [5]), "one entry per class"),
        (lambda: classwise.Score([3, 1], [5, 5], ["a"]), "class_names has 1 names"),
        (lambda: classwise.wilson_interval([1], [2], confidence=95), "confidence"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_interval_agrees_with_scipy(confidence):
    correct, count = np.array([0, 1, 5, 162, 999, 1000, 3]), np.array([10, 1, 10, 1000, 1000, 1000, 7])
    low, high = classwise.wilson_interval(correct, count, confidence)
    for k, n, got_low, got_high in zip(correct, count, low, high, strict=True):
        expected = binomtest(int(k), int(n)).proportion_ci(confidence, method="wilson")
        assert (got_low, got_high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_of_nothing_is_everything():
    low, high = classwise.wilson_interval([0, 4], [0, 8])
    assert (low[0], high[0]) == (0, 1)
    assert 0 < low[1] < 0.5 < high[1] < 1


def test_balanced_interval():
    """Of one class it is Wilson's; a rare class makes it wider; it is around the mean of the class accuracies."""
    one = binomtest(7, 9).proportion_ci(method="wilson")
    assert classwise.balanced_interval([7, 0], [9, 0]) == pytest.approx((one.low, one.high))
    found = classwise.balanced_interval([50] * 5 + [48] * 5, [50] * 10)
    assert found == pytest.approx((0.964, 0.989), abs=5e-4)
    low, high = classwise.balanced_interval([50, 500], [100, 1000])
    assert low < 0.5 < high
    wider = classwise.balanced_interval([5, 500], [10, 1000])
    assert wider[0] < low and high < wider[1]
    assert classwise.balanced_interval([0, 0], [3, 4])[0] == 0 and classwise.balanced_interval([3, 4], [3, 4])[1] == 1
    assert classwise.balanced_interval([0], [0]) is None


def test_balanced_interval_covers_the_mean_over_classes():
    rng = np.random.default_rng(0)
    count, rate = np.array([1000, 200, 40, 10]), np.array([0.9, 0.6, 0.3, 0.1])
    intervals = [classwise.balanced_interval(correct, count) for correct in rng.binomial(count, rate, (4000, 4))]
    low, high = np.array(intervals).T
    assert 0.94 < np.mean((low <= rate.mean()) & (rate.mean() <= high)) < 0.99


@pytest.mark.parametrize("classes, rate", [(10, 0.97), (10, 0.99), (1000, 0.03)])
def test_balanced_interval_covers_near_0_and_1(classes, rate):
    rng, count = np.random.default_rng(1), np.full(classes, 50)
    low, high = np.transpose([classwise.balanced_interval(k, count) for k in rng.binomial(50, rate, (1000, classes))])
    assert np.mean((low <= rate) & (rate <= high)) > 0.93
