"""The worst class: probability against exact enumeration, and coverage that holds where classes are hard to tell."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from jaxrobust import classwise

CONFIDENCE = 0.95


def _exact_probability(correct, count):
    """By summing over all outcomes."""
    probability = np.zeros(len(count))
    for drawn in itertools.product(*(range(n + 1) for n in count)):
        weight = np.prod([binom.pmf(k, n, c / n) for k, c, n in zip(drawn, correct, count, strict=True)])
        accuracy = np.array(drawn) / count
        is_worst = accuracy == accuracy.min()
        probability += weight * is_worst / is_worst.sum()
    return probability


@pytest.mark.parametrize("correct, count", [([3, 4, 5], [6, 6, 6]), ([1, 3, 4], [2, 6, 9]), ([0, 1, 5], [3, 4, 5])])
def test_probability_of_being_worst_agrees_with_enumeration(correct, count):
    resamples = 40_000
    found = classwise.probability_worst(correct, count, resamples=resamples)
    exact = _exact_probability(correct, np.array(count))
    # The share of a tie varies no more than the tie itself would.
    assert (np.abs(found - exact) <= 4 * np.sqrt(exact * (1 - exact) / resamples) + 1e-12).all()


def test_probability_by_hand():
    np.testing.assert_array_equal(classwise.probability_worst([0, 9, 0], [9, 9, 5]), [0.5, 0, 0.5])
    np.testing.assert_array_equal(classwise.probability_worst([0, 2, 0], [0, 9, 0]), [0, 1, 0])
    np.testing.assert_array_equal(classwise.probability_worst([0, 0], [0, 0]), [0, 0])


def test_probability_is_a_function_of_counts_and_seed():
    counts = [30, 31, 33, 50], [100, 100, 100, 100]
    first = classwise.probability_worst(*counts, resamples=500)
    np.testing.assert_array_equal(first, classwise.probability_worst(*counts, resamples=500))
    assert (first != classwise.probability_worst(*counts, resamples=500, seed=1)).any()
    assert first.sum() == pytest.approx(1) and first.argmax() == 0


def test_probability_of_a_thousand_classes_in_parts(monkeypatch):
    correct, count = np.full(1000, 20), np.full(1000, 50)
    monkeypatch.setattr(classwise.worst, "DRAWS_AT_ONCE", 70_000)
    found = classwise.probability_worst(correct, count, resamples=300)
    assert found.sum() == pytest.approx(1) and found.max() < 0.05


def test_one_class_has_the_exact_binomial_interval():
    for correct, count in ((0, 10), (3, 10), (162, 1000), (10, 10)):
        worst = classwise.worst_class([correct], [count], CONFIDENCE)
        expected = binomtest(correct, count).proportion_ci(CONFIDENCE, method="exact")
        assert (worst.low, worst.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_worst_class_by_hand():
    worst = classwise.worst_class([162, 0, 304, 224, 162, 900], [1000, 0, 1000, 1000, 1000, 1000])
    assert worst.classes == (0, 4) and worst.accuracy == 0.162 and worst.candidates == (0, 4)
    assert 0.13 < worst.low < 0.15 and 0.18 < worst.high < 0.2
    # Close ones may be the worst as well, and the more classes there are, the higher may the worst one be.
    assert classwise.worst_class([162, 180, 304], [1000] * 3).candidates == (0, 1)
    assert classwise.worst_class([3, 9], [10, 10]).high < classwise.worst_class([3] + [9] * 9, [10] * 10).high
    json.dumps(dataclasses.asdict(worst))


def test_without_examples_nothing_is_known():
    assert classwise.worst_class([0, 0], [0, 0]) == classwise.WorstClass((), None, None, None, ())


@pytest.mark.parametrize("options", [{"confidence": 95}, {"confidence": 0}])
def test_wrong_confidence(options):
    with pytest.raises(ValueError, match="confidence"):
        classwise.worst_class([1], [2], **options)


def test_no_resamples():
    with pytest.raises(ValueError, match="at least 1"):
        classwise.probability_worst([1], [2], resamples=0)


def _one_worst(num_classes, worst, others):
    return np.array([worst] + [others] * (num_classes - 1))


@pytest.mark.parametrize(
    "accuracy, count",
    [
        pytest.param(np.full(10, 0.4), 100, id="equal"),
        pytest.param(np.full(10, 0.4), 1000, id="equal, many examples"),
        pytest.param(_one_worst(10, 0.2, 0.6), 100, id="one clearly worst"),
        pytest.param(np.linspace(0.3, 0.5, 10), 50, id="graded"),
        pytest.param(np.full(10, 0.3), 3, id="few examples"),
        pytest.param(_one_worst(10, 0.0, 0.1), 20, id="none correct"),
        pytest.param(np.full(5, 0.01), 100, id="near 0"),
        pytest.param(np.full(5, 1.0), 10, id="all correct"),
        pytest.param(np.full(10, 0.97), 30, id="near 1"),
        pytest.param(np.full(6, 0.5), np.array([1000, 5, 0, 50, 0, 200]), id="unbalanced, absent"),
        pytest.param(_one_worst(6, 0.3, 0.5), np.array([10, 1000, 0, 1000, 1000, 1000]), id="worst is rare"),
        pytest.param(np.full(1000, 0.4), 50, id="1000 equal classes"),
        pytest.param(_one_worst(1000, 0.1, 0.6), 50, id="1000 classes, one worst"),
    ],
)
def test_interval_and_candidates_cover_the_truth(accuracy, count):
    """Both at once, as promised; the bound is exact, so the tolerance is that of the simulation."""
    rng = np.random.default_rng(0)
    count = np.broadcast_to(count, accuracy.shape)
    seen = np.where(count > 0, accuracy, np.inf)
    sets = 400 if accuracy.size <= 100 else 200
    hits = 0
    for correct in rng.binomial(count, accuracy, (sets, accuracy.size)):
        worst = classwise.worst_class(correct, count, CONFIDENCE)
        hits += worst.low <= seen.min() <= worst.high and seen.argmin() in worst.candidates
    assert hits / sets >= CONFIDENCE - 3 * np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / sets)


def test_interval_is_no_wider_than_it_must_be():
    """With many examples and a clear worst class, near that of the class by itself."""
    correct, count = np.array([200] + [600] * 9), np.full(10, 1000)
    worst = classwise.worst_class(correct, count)
    low, high = classwise.wilson_interval(correct, count)
    assert (worst.high - worst.low) < 1.35 * (high[0] - low[0])


def test_wilson_interval_of_the_lowest_does_not_cover_the_lowest():
    """Why there is a function for it: the class that looks worst of equal ones was unlucky."""
    rng = np.random.default_rng(0)
    count = np.full(10, 100)
    hits = 0
    for correct in rng.binomial(count, 0.4, (300, 10)):
        _, high = classwise.wilson_interval(correct, count)
        hits += high[correct.argmin()] >= 0.4
    assert hits / 300 < 0.9
