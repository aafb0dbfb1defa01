"""Agreement of settings: known numbers, SciPy's, and simulated settings whose true agreement is known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jaxrobust.classwise import agreement


def _rng(seed=0):
    return np.random.default_rng(seed)


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


def test_of_many_images_the_correlations_are_those_of_the_truth():
    """Each setting agrees with the next on nothing but the extremes."""
    truth = np.array([[0.2, 0.4, 0.5, 0.8], [0.2, 0.5, 0.4, 0.8], [0.8, 0.5, 0.4, 0.2]])
    found = agreement.concordance(*judged(truth, 20_000, _rng(1)), "abc", rng=_rng(), draws=20)
    expected = [[agreement.rank_correlation(a, b) for b in truth] for a in truth]
    np.testing.assert_allclose(found.correlations, expected, atol=1e-9)
    mean = (0.8 - 1 - 0.8) / 3
    assert found.mean_correlation == pytest.approx(mean) and found.w == pytest.approx(max(0, (1 + 2 * mean) / 3))


def judged(accuracy, images, rng, shared=0.0):
    """Verdicts on images whose difficulty the runs have in common to this share, and labels."""
    runs, classes = accuracy.shape
    common, own = rng.normal(size=(1, classes, images)), rng.normal(size=(runs, classes, images))
    difficulty = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
    is_robust = difficulty < stats.norm.ppf(accuracy)[:, :, None]
    return is_robust.reshape(runs, -1), np.repeat(np.arange(classes), images)


def test_correlations_are_those_on_images_of_their_own():
    """Whatever the settings share by being judged on the same images, and half the images not instead of all."""
    rng, truth = _rng(2), _rng(3).uniform(0.4, 0.6, (3, 12)) + np.linspace(-0.1, 0.1, 12)

    def mean_of_pairs(is_robust):
        accuracy = is_robust.reshape(3, 12, -1).mean(2)
        return np.mean([agreement.rank_correlation(a, b) for a, b in itertools.combinations(accuracy, 2)])

    own = [mean_of_pairs(judged(truth, 80, rng)[0]) for _ in range(400)]
    same = [judged(truth, 80, rng, 0.9) for _ in range(40)]
    found = [agreement.concordance(*of, "abc", rng=rng, draws=2).mean_correlation for of in same]
    assert np.mean(found) == pytest.approx(np.mean(own), abs=0.06)
    assert np.mean([mean_of_pairs(of[0]) for of in same]) > np.mean(own) + 0.15


def test_one_class_far_below_many_equal_ones_does_not_pass_for_more_agreement():
    """Ranks of the equal ones gain nothing from more images: the formula of Spearman and Brown says 0.40."""
    rng, truth = _rng(5), np.full((3, 10), 0.5) - 0.2 * (np.arange(10) == 0)
    own = [judged(truth, 100, rng)[0].reshape(3, 10, 100).mean(2) for _ in range(400)]
    expected = np.mean([agreement.rank_correlation(of[0], of[1]) for of in own])
    assert expected == pytest.approx(0.29, abs=0.03)
    found = [agreement.concordance(*judged(truth, 100, rng, 0.85), "abc", rng=rng, draws=1) for _ in range(50)]
    assert np.mean([of.mean_correlation for of in found]) == pytest.approx(expected + 0.04, abs=0.05)


def test_concordance_of_one_true_order():
    rng, truth = _rng(7), np.linspace(0.2, 0.8, 10)
    of = judged(np.tile(truth, (8, 1)), 1000, rng, 0.8)
    settings = np.repeat([0.1, 0.2, 0.3, 0.4], 2)
    found = agreement.concordance(*of, settings, rng=_rng(), draws=60)
    assert found.w == pytest.approx((1 + 3 * found.mean_correlation) / 4)
    assert found.classes == 10 and found.p_value == pytest.approx(1 / 61)
    assert found.low <= found.w <= found.high <= 1 and found.low > 0.9
    again = agreement.concordance(*of, settings, rng=_rng(), draws=60)
    assert (again.w, again.low, again.high, again.p_value) == (found.w, found.low, found.high, found.p_value)


def test_equal_classes_on_the_same_images_hold_their_level():
    """On which ranks of the same images agree nearly perfectly."""
    rng, found = _rng(8), []
    for _ in range(40):
        of = judged(np.full((4, 8), 0.5), 60, rng, 0.85)
        found.append(agreement.concordance(*of, "abcd", rng=rng, draws=19))
    assert np.mean([of.mean_correlation for of in found]) == pytest.approx(0, abs=0.15)
    assert np.mean([of.p_value <= 0.05 for of in found]) < 0.14


def test_unrelated_orders_hold_their_level_whatever_the_seeds():
    """Seeds agree with each other, and must not be taken for settings that do."""
    rng, found = _rng(8), []
    for _ in range(60):
        truth = np.repeat(rng.uniform(0.2, 0.8, (4, 8)), 2, axis=0)
        of = judged(truth, 100, rng, 0.8)
        found.append(agreement.concordance(*of, np.repeat(list("abcd"), 2), rng=rng, draws=39))
    assert np.mean([of.mean_correlation for of in found]) == pytest.approx(0, abs=0.08)
    assert np.mean([of.p_value <= 0.05 and of.low > 1 / 4 for of in found]) < 0.1


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_two_settings_of_unrelated_orders_hold_their_level(shared):
    """Whose classes differ, so that permuting the images of all is no reference: by that alone 0.10 are rejected."""
    rng, p_values = _rng(12), []
    for _ in range(80):
        of = judged(rng.uniform(0.3, 0.7, (2, 8)), 40, rng, shared)
        p_values.append(agreement.concordance(*of, "ab", rng=rng, draws=19).p_value)
    assert np.mean(np.array(p_values) <= 0.05) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 80)


def test_interval_of_concordance_covers_that_of_all_settings():
    """Settings drawn from very many: W of pairs that differ is not driven up by those drawn twice."""
    rng, common = _rng(9), _rng(10).uniform(0.25, 0.65, 10)

    def settings(number):
        return np.clip(common + 0.1 * rng.normal(size=(number, 10)), 0.01, 0.99)

    ranks = stats.rankdata(rng.binomial(300, settings(3000)), axis=1)
    many = ranks.mean(0).var() / ranks.var(1).mean()  # W, the mean correlation but for 1 / 3000
    expected = (1 + 3 * many) / 4
    covered = []
    for _ in range(40):
        found = agreement.concordance(*judged(settings(4), 300, rng, 0.8), range(4), rng=rng, draws=50)
        covered.append(found.low <= expected <= found.high)
    assert np.mean(covered) > 0.84


def test_runs_on_other_images_and_classes_with_a_single_one():
    rng, truth = _rng(11), np.linspace(0.2, 0.8, 6)
    is_robust, labels = judged(np.tile(truth, (3, 1)), 400, rng, 0.8)
    is_robust = is_robust.astype(int)
    is_robust[0, ::2] = is_robust[1, 1::2] = -1
    found = agreement.concordance(is_robust, labels, "abc", rng=_rng(), draws=30)
    assert found.w > 0.95 and found.classes == 6
    single = agreement.concordance(np.c_[is_robust, [0, 1, 0]], np.append(labels, 6), "abc", rng=_rng(), draws=30)
    assert single.classes == 6 and single.w == pytest.approx(found.w, abs=0.02)


def test_nothing_to_rank():
    same = agreement.concordance(np.ones((2, 8), bool), np.repeat([0, 1], 4), "ab", rng=_rng())
    assert math.isnan(same.w) and math.isnan(same.p_value)


def test_wrong_input():
    ok, labels, rng = np.ones((2, 6), bool), np.repeat([0, 1, 2], 2), _rng()
    with pytest.raises(ValueError, match="one entry per class"):
        agreement.rank_correlation([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="one for each image"):
        agreement.concordance(ok, labels[1:], ["a", "b"], rng=rng)
    with pytest.raises(ValueError, match="one setting"):
        agreement.concordance(ok, labels, ["a", "a"], rng=rng)
    with pytest.raises(ValueError, match="3 labels for 2 runs"):
        agreement.concordance(ok, labels, ["a", "a", "b"], rng=rng)
    with pytest.raises(ValueError, match="draws"):
        agreement.concordance(ok, labels, ["a", "b"], rng=rng, draws=0)
    with pytest.raises(ValueError, match="confidence"):
        agreement.concordance(ok, labels, ["a", "b"], rng=rng, confidence=95)
