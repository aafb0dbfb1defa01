"""Agreement of settings: known numbers, SciPy's, and simulated settings whose true agreement is known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jaxrobust.classwise import agreement


def _rng(seed=0):
    return np.random.default_rng(seed)


def _measured(truth, images, runs, rng):
    """Counts [runs, C] of runs with the same true accuracies."""
    correct = rng.binomial(images, np.broadcast_to(truth, (runs, len(truth))))
    return correct, np.full(correct.shape, images)


def test_rank_correlation_by_hand():
    assert agreement.rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert agreement.rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(agreement.rank_correlation([1, 2, 3], [5, 5, 5]))
    assert agreement.rank_correlation([1, 2, np.nan, 3], [1, 2, 0, 3]) == pytest.approx(1)


def test_rank_correlation_with_ties_is_scipys():
    rng = _rng()
    for _ in range(20):
        a, b = rng.integers(0, 5, (2, 12))
        assert agreement.rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_kendall_w_by_hand():
    assert agreement.kendall_w([[1, 2, 3], [1, 2, 3], [10, 30, 70]]) == pytest.approx(1)
    assert agreement.kendall_w([[1, 2, 3], [3, 2, 1]]) == 0
    # Rank sums 6, 4, 8 of three orders of three classes: S = 8, W = 12 S / (m^2 (n^3 - n)).
    assert agreement.kendall_w([[1, 2, 3], [3, 1, 2], [2, 1.9, 2.1]]) == pytest.approx(12 * 8 / (9 * 24))
    assert math.isnan(agreement.kendall_w([[1, 1], [2, 2]]))
    assert agreement.kendall_w([[1, 2, 9, 3], [1, 2, np.nan, 3]]) == pytest.approx(1)


def test_kendall_w_corrects_for_ties_and_is_friedmans_statistic():
    rng = _rng()
    for _ in range(10):
        scores = rng.integers(0, 4, (5, 7))
        ranks = stats.rankdata(scores, axis=1)
        ties = sum(
            (np.unique(row, return_counts=True)[1] ** 3 - np.unique(row, return_counts=True)[1]).sum() for row in scores
        )
        deviations = ((ranks.sum(0) - ranks.sum(0).mean()) ** 2).sum()
        w = agreement.kendall_w(scores)
        assert w == pytest.approx(12 * deviations / (25 * (7**3 - 7) - 5 * ties))
        assert w == pytest.approx(stats.friedmanchisquare(*scores.T).statistic / (5 * 6))


def test_agreement_of_two_settings_that_order_alike():
    truth = np.linspace(0.2, 0.8, 10)
    correct_a, count_a = _measured(truth, 1000, 3, _rng(1))
    correct_b, count_b = _measured(truth / 2, 1000, 2, _rng(2))
    found = agreement.rank_agreement(correct_a, count_a, correct_b, count_b, rng=_rng())
    assert found.correlation > 0.95 and 0.9 < found.low <= found.correlation <= found.high <= 1
    assert found.p_value == pytest.approx(1 / 2001)
    assert found.ceiling == pytest.approx(math.sqrt(found.reliability_a * found.reliability_b))
    again = agreement.rank_agreement(correct_a, count_a, correct_b, count_b, rng=_rng())
    assert again == found
    swapped = agreement.rank_agreement(correct_b, count_b, correct_a, count_a, rng=_rng())
    assert swapped.correlation == pytest.approx(found.correlation) and swapped.low == pytest.approx(found.low, abs=0.03)


def test_p_value_of_five_classes_is_that_of_all_orders():
    a, b = np.array([50, 40, 30, 20, 10]), np.array([40, 50, 30, 20, 10])
    count = np.full(5, 100)
    found = agreement.rank_agreement(a, count, b, count, rng=_rng(), draws=20_000)
    every = [abs(agreement.rank_correlation(order, b)) for order in itertools.permutations(a)]
    assert found.p_value == pytest.approx(np.mean(np.array(every) >= 0.9 - 1e-9), abs=0.01)


def test_classes_without_examples_take_no_part_and_constant_settings_say_nothing():
    a, b = [5, 9, 0, 20], [6, 8, 3, 30]
    with_empty = agreement.rank_agreement(a, [40, 40, 0, 40], b, [40] * 4, rng=_rng())
    without = agreement.rank_agreement([5, 9, 20], [40] * 3, [6, 8, 30], [40] * 3, rng=_rng())
    assert with_empty == without
    assert math.isnan(agreement.rank_agreement([4] * 4, [40] * 4, b, [40] * 4, rng=_rng()).low)


@pytest.mark.parametrize("classes, images, seeds, deviation", [(15, 200, 2, 0.06), (60, 50, 1, 0.0)])
def test_interval_and_reliability_are_those_of_repeated_measurements(classes, images, seeds, deviation):
    """Accuracies err by seed and, all seeds alike, by image. With many classes and few images bias is what counts."""
    rng = _rng(3)
    truths = rng.uniform(0.2, 0.7, classes)
    truths = truths, np.clip(truths + 0.1 * rng.normal(size=classes), 0.05, 0.95)

    def measured(truth):
        of_images = rng.binomial(images, truth) / images
        return np.rint(images * np.clip(of_images + deviation * rng.normal(size=(seeds, classes)), 0, 1)).astype(int)

    pairs = [[measured(truth) for truth in truths] for _ in range(400)]
    expected = np.mean([agreement.rank_correlation(a.mean(0), b.mean(0)) for a, b in pairs])
    repeated = [agreement.rank_correlation(a.mean(0), b.mean(0)) for (a, _), (b, _) in itertools.pairwise(pairs)]
    count = np.full((seeds, classes), images)
    found = [agreement.rank_agreement(a, count, b, count, rng=rng, draws=300) for a, b in pairs[:100]]
    assert np.mean([f.low <= expected <= f.high for f in found]) > 0.92
    assert np.mean([f.reliability_a for f in found]) == pytest.approx(np.mean(repeated), abs=0.025)


@pytest.mark.parametrize("images", [30, 100, 1000])
def test_reliability_is_the_correlation_of_two_measurements(images):
    rng, truth = _rng(4), _rng(5).uniform(0.3, 0.6, 50)
    single = [_measured(truth, images, 1, rng)[0][0] for _ in range(41)]
    expected = np.mean([agreement.rank_correlation(a, b) for a, b in itertools.pairwise(single)])
    found = [agreement.reliability(correct, np.full(50, images), rng=rng, draws=100) for correct in single]
    assert np.mean(found) == pytest.approx(expected, abs=0.05)


def test_reliability_without_differences_is_none():
    rng = _rng(6)
    found = [
        agreement.reliability(*(v[0] for v in _measured(np.full(40, 0.4), 100, 1, rng)), rng=rng) for _ in range(20)
    ]
    assert np.median(found) < 0.25
    assert math.isnan(agreement.reliability([5, 5, 5], [9, 9, 9], rng=rng))


def test_concordance_of_one_true_order():
    rng, truth = _rng(7), np.linspace(0.2, 0.8, 10)
    correct, count = _measured(truth, 1000, 12, rng)
    settings = np.repeat([0.1, 0.2, 0.3, 0.4], 3)
    found = agreement.concordance(correct, count, settings, rng=_rng())
    means = (correct / count).reshape(4, 3, 10).mean(1)
    assert found.w == pytest.approx(agreement.kendall_w(means))
    pairs = [agreement.rank_correlation(a, b) for a, b in itertools.combinations(means, 2)]
    assert found.mean_correlation == pytest.approx(np.mean(pairs))
    assert (found.settings, found.classes) == (4, 10) and found.p_value == pytest.approx(1 / 2001)
    assert found.low <= found.w <= found.high <= 1 and found.low > 0.9 and found.ceiling > 0.95
    assert agreement.concordance(correct, count, settings, rng=_rng()) == found


def test_concordance_of_unrelated_orders_holds_its_level_whatever_the_seeds():
    """Seeds agree with each other, and must not be taken for settings that do."""
    rng, p_values, means = _rng(8), [], []
    for _ in range(200):
        truth = np.repeat(rng.uniform(0.2, 0.8, (4, 8)), 3, axis=0)
        correct = rng.binomial(200, truth)
        found = agreement.concordance(
            correct, np.full(correct.shape, 200), np.repeat(list("abcd"), 3), rng=rng, draws=199
        )
        p_values.append(found.p_value)
        means.append(found.mean_correlation)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(means) == pytest.approx(0, abs=0.05)


def test_interval_of_concordance_covers_that_of_all_settings():
    """Settings drawn from very many: W of pairs that differ is not driven up by those drawn twice."""
    rng, common = _rng(9), _rng(10).uniform(0.25, 0.65, 10)

    def settings(number):
        truth = np.clip(common + 0.1 * rng.normal(size=(number, 10)), 0, 1)
        return rng.binomial(500, truth)

    many = agreement.kendall_w(settings(3000))  # the mean correlation, but for 1 / 3000
    expected = (1 + 3 * many) / 4
    covered = []
    for _ in range(250):
        correct = settings(4)
        found = agreement.concordance(correct, np.full(correct.shape, 500), range(4), rng=rng, draws=100)
        covered.append(found.low <= expected <= found.high)
    assert np.mean(covered) > 0.92


def test_wrong_input():
    ok, rng = np.full((2, 3), 4), _rng()
    with pytest.raises(ValueError, match="one entry per class"):
        agreement.rank_correlation([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="two rows"):
        agreement.kendall_w([[1, 2]])
    with pytest.raises(ValueError, match="5 correct of 4"):
        agreement.reliability([5, 1], [4, 4], rng=rng)
    with pytest.raises(ValueError, match="3 classes and setting b has 2"):
        agreement.rank_agreement([1, 2, 3], [4] * 3, [1, 2], [4] * 2, rng=rng)
    with pytest.raises(ValueError, match="one setting"):
        agreement.concordance(ok, ok, ["a", "a"], rng=rng)
    with pytest.raises(ValueError, match="3 labels for 2 runs"):
        agreement.concordance(ok, ok, ["a", "a", "b"], rng=rng)
    with pytest.raises(ValueError, match="draws"):
        agreement.concordance(ok, ok, ["a", "b"], rng=rng, draws=0)
    with pytest.raises(ValueError, match="confidence"):
        agreement.rank_agreement([1, 2], [4, 4], [1, 2], [4, 4], rng=rng, confidence=95)
