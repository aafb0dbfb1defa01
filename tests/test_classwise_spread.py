"""Differences between classes without chance: numbers by hand, coverage and level by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxrobust import classwise

CHANCE = [26, 28, 29, 30, 30, 30, 31, 31, 32, 33], [50] * 10


def test_equality_is_pearsons_chi_square():
    found = classwise.equality_test(*CHANCE)
    assert found.chi_square == pytest.approx(3.0) and found.degrees == 9
    correct, count = np.array([30, 45, 10, 0]), np.array([60, 60, 40, 0])
    expected = stats.chi2_contingency([correct[:3], (count - correct)[:3]], correction=False)
    assert classwise.equality_test(correct, count) == pytest.approx((expected.statistic, 2, expected.pvalue))


def test_equality_of_few_images_is_the_exact_test():
    found = classwise.equality_test([0, 4], [6, 5])
    assert found.p_value == pytest.approx(stats.fisher_exact([[0, 6], [4, 1]]).pvalue, abs=0.005)
    assert found == classwise.equality_test([0, 4], [6, 5])
    assert classwise.equality_test([3, 0], [3, 0]).p_value == classwise.equality_test([2, 2], [2, 2]).p_value == 1


def test_what_chance_alone_explains_is_taken_off():
    score = classwise.Score(*CHANCE)
    assert score.gap == pytest.approx(0.14) and score.nsd == pytest.approx(0.095, abs=5e-4)
    assert score.equality.p_value > 0.95
    for figure in ("gap", "std", "cv", "nsd"):
        assert score.corrected[figure].value == score.corrected[figure].low == 0 < score.corrected[figure].high
    worst = score.corrected["worst_class_accuracy"]
    assert worst.value == pytest.approx(0.6) and (worst.low, worst.high) == (score.worst.low, score.worst.high)


def test_std_by_hand_and_the_others_in_proportion():
    correct, count = np.array([10, 25, 40]), np.array([50, 100, 50])
    a = correct / count
    expected = math.sqrt(a.var() - (a * (1 - a) / (count - 1)).mean() * (1 - 1 / 3))
    score = classwise.Score(correct, count)
    assert score.corrected["std"].value == pytest.approx(expected)
    assert score.corrected["cv"].value == pytest.approx(expected / a.mean())
    assert score.corrected["nsd"].value == pytest.approx(expected / (1 - a.mean()))
    assert score.corrected["gap"].value == pytest.approx(score.gap * expected / score.std)
    assert all(of.low <= of.value <= of.high for of in score.corrected.values())


@pytest.mark.parametrize(
    "truth",
    [
        pytest.param(np.full(10, 0.6), id="equal"),
        pytest.param(np.linspace(0.2, 0.8, 10), id="graded"),
        pytest.param(np.array([0.3] + [0.6] * 9), id="one worse"),
        pytest.param(np.array([0.35, 0.65]), id="two"),
    ],
)
def test_intervals_cover(truth):
    rng, times, count = np.random.default_rng(0), 400, np.full(truth.size, 100)
    found = [classwise.corrected(correct, count) for correct in rng.binomial(100, truth, (times, truth.size))]
    right = {"gap": np.ptp(truth), "std": truth.std(), "cv": truth.std() / truth.mean()}
    right |= {"worst_class_accuracy": truth.min()}
    for figure, value in right.items():
        covered = np.mean([of[figure].low - 1e-9 <= value <= of[figure].high + 1e-9 for of in found])
        assert covered > 0.92, (figure, covered)
    variance = np.array([of["std"].value ** 2 for of in found])
    assert variance.mean() == pytest.approx(truth.var(), abs=4 * variance.std() / math.sqrt(times) + 0.0006)


@pytest.mark.parametrize("deviation", [0.0, 0.1])
def test_intervals_cover_with_classes_of_unequal_size(deviation):
    rng, count = np.random.default_rng(2), np.array([10, 20, 30, 40, 60, 80, 100, 200, 300, 500])
    shape, covered = np.linspace(-1.5, 1.5, 10), []
    for _ in range(400):
        truth = 0.5 + deviation * rng.permutation(shape)
        of = classwise.corrected(rng.binomial(count, truth), count)["std"]
        covered.append(of.low - 1e-9 <= truth.std() <= of.high + 1e-9)
    assert 0.93 < np.mean(covered) < 0.99


def test_no_interval_is_as_if_nothing_were_left_to_chance():
    """Neither where classes are all right or all wrong, nor where they differ less than chance lets them."""
    extreme = classwise.corrected([50] * 9 + [0], [50] * 10)["std"]
    assert extreme.low < extreme.value == pytest.approx(0.3) and extreme.high > extreme.value
    like_chance = [24, 26, 27, 29, 30, 30, 31, 33, 34, 36]  # a little more than chance: a chi-square of 10.3 on 9
    same, other = (classwise.corrected(k, [50] * 10) for k in ([30] * 10, like_chance))
    assert same["std"].low == 0 and same["std"].high == pytest.approx(0.0823, abs=5e-4)
    assert 0.9 < same["std"].high / other["std"].high <= 1 and same["gap"].high > 0.14


@pytest.mark.parametrize("rate, images", [(0.6, 50), (0.03, 20), (0.5, 4)])
def test_equality_keeps_its_level(rate, images):
    rng, count = np.random.default_rng(1), np.full(10, images)
    p_values = [classwise.equality_test(k, count).p_value for k in rng.binomial(images, rate, (200, 10))]
    assert np.mean(np.array(p_values) < 0.05) < 0.1


@pytest.mark.parametrize("correct, count", [([0, 0], [3, 4]), ([3, 4], [3, 4]), ([1], [2]), ([1, 0], [1, 1])])
def test_little_or_nothing(correct, count):
    found = classwise.corrected(correct, count)
    assert all(0 <= of.low <= of.high for name, of in found.items() if not math.isnan(of.value)), found
    assert classwise.corrected([0], [0]) == {}
