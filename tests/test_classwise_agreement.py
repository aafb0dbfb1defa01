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


def _w(correct, count=100):
    """Kendall's W of settings of one run each."""
    correct = np.asarray(correct)
    count = np.broadcast_to(count, correct.shape)
    return agreement.concordance(correct, count, range(len(correct)), rng=_rng(), draws=2).w


def test_kendall_w_by_hand():
    assert _w([[1, 2, 3], [1, 2, 3], [10, 30, 70]]) == pytest.approx(1)
    assert _w([[1, 2, 3], [3, 2, 1]]) == 0
    # Rank sums 6, 4, 8 of three orders of three classes: S = 8, W = 12 S / (m^2 (n^3 - n)).
    assert _w([[1, 2, 3], [3, 1, 2], [20, 19, 21]]) == pytest.approx(12 * 8 / (9 * 24))
    assert math.isnan(_w([[1, 1], [2, 2]]))
    assert _w([[1, 2, 9, 3], [1, 2, 0, 3]], [[9, 9, 9, 9], [9, 9, 0, 9]]) == pytest.approx(1)


def test_kendall_w_corrects_for_ties_and_is_friedmans_statistic():
    rng = _rng()
    for _ in range(10):
        scores = rng.integers(0, 4, (5, 7))
        ranks = stats.rankdata(scores, axis=1)
        ties = sum(
            (np.unique(row, return_counts=True)[1] ** 3 - np.unique(row, return_counts=True)[1]).sum() for row in scores
        )
        deviations = ((ranks.sum(0) - ranks.sum(0).mean()) ** 2).sum()
        w = _w(scores)
        assert w == pytest.approx(12 * deviations / (25 * (7**3 - 7) - 5 * ties))
        assert w == pytest.approx(stats.friedmanchisquare(*scores.T).statistic / (5 * 6))


@pytest.mark.parametrize("classes, images, seeds, deviation", [(15, 200, 2, 0.06), (60, 50, 1, 0.0)])
def test_reliability_is_that_of_repeated_measurements(classes, images, seeds, deviation):
    """Accuracies err by seed and, all seeds alike, by image. With many classes and few images bias is what counts."""
    rng = _rng(3)
    truth = rng.uniform(0.2, 0.7, classes)

    def measured():
        of_images = rng.binomial(images, truth) / images
        return np.rint(images * np.clip(of_images + deviation * rng.normal(size=(seeds, classes)), 0, 1)) / images

    accuracies = [measured() for _ in range(400)]
    repeated = [agreement.rank_correlation(a.mean(0), b.mean(0)) for a, b in itertools.pairwise(accuracies)]
    found = [agreement.reliability(a, np.full(classes, images), rng, 300) for a in accuracies[:100]]
    assert np.mean(found) == pytest.approx(np.mean(repeated), abs=0.025)


@pytest.mark.parametrize("images", [30, 100, 1000])
def test_reliability_is_the_correlation_of_two_measurements(images):
    rng, truth = _rng(4), _rng(5).uniform(0.3, 0.6, 50)
    single = [_measured(truth, images, 1, rng)[0][0] for _ in range(41)]
    expected = np.mean([agreement.rank_correlation(a, b) for a, b in itertools.pairwise(single)])
    found = [agreement.reliability(c[None] / images, np.full(50, images), rng, 100) for c in single]
    assert np.mean(found) == pytest.approx(expected, abs=0.05)


def test_reliability_without_differences_is_none():
    rng = _rng(6)
    flat = [_measured(np.full(40, 0.4), 100, 1, rng) for _ in range(20)]
    found = [agreement.reliability(correct / count, count[0], rng, 2000) for correct, count in flat]
    assert np.median(found) < 0.25
    assert math.isnan(agreement.reliability(np.full((1, 3), 0.5), np.full(3, 9), rng, 10))


def test_concordance_of_one_true_order():
    rng, truth = _rng(7), np.linspace(0.2, 0.8, 10)
    correct, count = _measured(truth, 1000, 12, rng)
    settings = np.repeat([0.1, 0.2, 0.3, 0.4], 3)
    found = agreement.concordance(correct, count, settings, rng=_rng())
    means = (correct / count).reshape(4, 3, 10).mean(1)
    assert found.w == pytest.approx((1 + 3 * found.mean_correlation) / 4)
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

    ranks = stats.rankdata(settings(3000), axis=1)
    many = ranks.mean(0).var() / ranks.var(1).mean()  # W, the mean correlation but for 1 / 3000
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
    with pytest.raises(ValueError, match="5 correct of 4"):
        agreement.concordance(ok + [[0, 1, 0]], ok, ["a", "b"], rng=rng)
    with pytest.raises(ValueError, match="one setting"):
        agreement.concordance(ok, ok, ["a", "a"], rng=rng)
    with pytest.raises(ValueError, match="3 labels for 2 runs"):
        agreement.concordance(ok, ok, ["a", "a", "b"], rng=rng)
    with pytest.raises(ValueError, match="draws"):
        agreement.concordance(ok, ok, ["a", "b"], rng=rng, draws=0)
    with pytest.raises(ValueError, match="confidence"):
        agreement.concordance(ok, ok, ["a", "b"], rng=rng, confidence=95)
