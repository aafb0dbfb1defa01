"""The worst class: probability against integration, and coverage that holds where classes are hard to tell."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import beta, betabinom, binomtest

from jaxrobust import classwise

CONFIDENCE = 0.95


def test_probability_by_hand():
    np.testing.assert_array_equal(classwise.probability_worst([0, 2, 0], [0, 9, 0]), [0, 1, 0])
    np.testing.assert_array_equal(classwise.probability_worst([0, 0], [0, 0]), [0, 0])
    np.testing.assert_allclose(classwise.probability_worst([7] * 4 + [0], [9] * 4 + [0]), [0.25] * 4 + [0])
    assert classwise.probability_worst([100, 900, 900], [1000] * 3)[0] == 1


def test_classes_that_differ_by_chance_are_all_candidates():
    """Chi-square 3.7 on 9: resampling the images would name the first with 69 %."""
    found = classwise.probability_worst([24, 30, 30, 31, 31, 31, 32, 32, 33, 33], [50] * 10)
    assert 0.15 < found[0] < 0.4 and found.min() > 0.03 and found.sum() == pytest.approx(1)


def test_probability_is_that_of_the_posterior_by_integration():
    """Of three classes, with the prior written out on a fine grid and the minimum integrated."""
    correct, count = np.array([8, 11, 14]), np.array([20, 20, 20])
    x = np.linspace(0, 1, 801)
    total, weights = np.zeros(3), 0.0
    for width in (np.arange(60) + 0.5) / 60 * 0.999:
        for mean in np.sin((np.arange(60) + 0.5) / 60 * np.pi / 2) ** 2:
            a, b = mean * (1 / width**2 - 1), (1 - mean) * (1 / width**2 - 1)
            weight = np.exp(betabinom.logpmf(correct, count, a, b).sum())
            below = beta.cdf(x[:, None], a + correct, b + count - correct)
            mass, above = np.diff(below, axis=0), 1 - (below[1:] + below[:-1]) / 2
            total += weight * np.array([(mass[:, c] * np.delete(above, c, 1).prod(1)).sum() for c in range(3)])
            weights += weight
    np.testing.assert_allclose(classwise.probability_worst(correct, count), total / weights, atol=0.02)


def test_probability_is_calibrated():
    rng, said, right = np.random.default_rng(0), [], []
    for _ in range(400):
        truth = np.clip(0.6 + 0.07 * rng.normal(size=10), 0, 1)
        found = classwise.probability_worst(rng.binomial(50, truth), np.full(10, 50), draws=2000)
        said.append(found.max())
        right.append(found.argmax() == truth.argmin())
    assert np.mean(right) == pytest.approx(np.mean(said), abs=0.1)


def test_probability_is_a_function_of_counts_and_seed():
    counts = [30, 31, 33, 50], [100, 100, 100, 100]
    first = classwise.probability_worst(*counts, draws=500)
    np.testing.assert_array_equal(first, classwise.probability_worst(*counts, draws=500))
    assert (first != classwise.probability_worst(*counts, draws=500, seed=1)).any()
    assert first.sum() == pytest.approx(1) and first.argmax() == 0


def test_probability_of_a_thousand_classes():
    found = classwise.probability_worst(np.full(1000, 20), np.full(1000, 50), draws=300)
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


def test_no_draws():
    with pytest.raises(ValueError, match="at least 1"):
        classwise.probability_worst([1], [2], draws=0)


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
