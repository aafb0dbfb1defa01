"""Permutation tests: enumeration by hand, SciPy's, uniform p-values without an effect and power with one."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jaxrobust.classwise import permutation


def _rng(seed=0):
    return np.random.default_rng(seed)


def _design(blocks=4, levels=2, seeds=3):
    """Level and block of each run of a full product."""
    block, axis, _ = (i.ravel() for i in np.indices((blocks, levels, seeds)))
    return axis, block


def _null(block, classes, rng):
    """Accuracies without an effect: blocks differ, runs of one do not but for noise."""
    profile = rng.uniform(0.2, 0.7, (block.max() + 1, classes))
    return profile[block] + 0.02 * rng.standard_t(3, (block.size, 1)) + 0.03 * rng.standard_t(3, (block.size, classes))


def test_all_ways_are_tried_where_they_are_few():
    rng = _rng()
    accuracy, axis, blocks = rng.random((7, 4)), np.array([0, 0, 1, 1, 0, 1, 1]), np.array([0, 0, 0, 0, 1, 1, 1])
    found = permutation.axis_test(accuracy, axis, blocks, rng=rng)
    assert found.exhaustive and found.permutations == 6 * 3

    def statistic(order):
        profile = accuracy - accuracy.mean(1, keepdims=True)
        for block in (0, 1):
            profile[blocks == block] -= profile[blocks == block].mean(0)
        return sum((profile[order == k].mean(0) ** 2).sum() * (order == k).sum() for k in (0, 1))

    ways = [
        np.array(first + second)
        for first in set(itertools.permutations((0, 0, 1, 1)))
        for second in set(itertools.permutations((0, 1, 1)))
    ]
    assert found.statistic == pytest.approx(statistic(axis))
    assert found.p_value == pytest.approx(np.mean([statistic(way) >= statistic(axis) - 1e-12 for way in ways]))


def test_drawn_permutations_agree_with_all_of_them():
    rng = _rng(1)
    axis, blocks = _design(blocks=2)
    accuracy = _null(blocks, 5, rng) + 0.02 * axis[:, None] * np.arange(5)
    every = permutation.axis_test(accuracy, axis, blocks, rng=rng)
    drawn = permutation.axis_test(accuracy, axis, blocks, rng=rng, permutations=399)
    assert every.permutations == 400 and not drawn.exhaustive and drawn.permutations == 400
    assert drawn.p_value == pytest.approx(every.p_value, abs=0.06)
    assert drawn.share == every.share


@pytest.mark.parametrize("profile", [True, False])
def test_p_values_are_uniform_without_an_effect(profile):
    rng, (axis, blocks) = _rng(2), _design()
    p_values = [
        permutation.axis_test(_null(blocks, 6, rng), axis, blocks, rng=rng, permutations=199, profile=profile).p_value
        for _ in range(500)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) < 0.08


def test_effects_are_found_where_they_are():
    """A change of the profile of the size of the noise; an average that moves is none of it."""
    rng, (axis, blocks) = _rng(3), _design()
    contrast, found = np.array([1, -1, 1, -1, 1, -1]), []
    for _ in range(60):
        accuracy = _null(blocks, 6, rng) + 0.05 * axis[:, None] * contrast
        found.append(permutation.axis_test(accuracy, axis, blocks, rng=rng, permutations=199).p_value)
    assert np.mean(np.array(found) <= 0.05) > 0.9
    noise = _null(blocks, 6, rng)
    moved = noise + 0.5 * axis[:, None]
    of_moved = permutation.axis_test(moved, axis, blocks, rng=_rng(0))
    of_noise = permutation.axis_test(noise, axis, blocks, rng=_rng(0))
    assert of_moved.statistic == pytest.approx(of_noise.statistic) and of_moved.p_value == of_noise.p_value
    assert permutation.axis_test(moved, axis, blocks, rng=rng, profile=False).p_value < 0.001


def test_nothing_to_permute_and_nothing_that_varies():
    accuracy = _rng(4).random((4, 3))
    found = permutation.axis_test(accuracy, list("abab"), ["x", "y", "z", "w"], rng=_rng())
    assert (found.p_value, found.permutations, found.statistic) == (1, 1, 0)
    constant = permutation.axis_test(np.full((4, 3), 0.1), list("abab"), list("xxxx"), rng=_rng())
    assert constant.p_value == 1 and math.isnan(constant.share)


def test_paired_change_by_hand_and_scipys():
    before, after = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.2, 0.35, 0.38, 0.6])
    found = permutation.paired_change(before, after, rng=_rng())
    interval = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(0.1325) and found.p_value == found.least_p == 2 / 16
    rng = _rng(5)
    before, after = rng.random((2, 20))
    found = permutation.paired_change(before, after + 0.1, rng=rng, permutations=5000)
    change = after + 0.1 - before
    expected = stats.permutation_test((change,), np.mean, permutation_type="samples", n_resamples=5000, rng=rng).pvalue
    assert found.p_value == pytest.approx(expected, abs=0.03)


def test_change_of_zero_is_no_evidence():
    assert permutation.paired_change([0.1, 0.2, 0.3], [0.2, 0.4, 0.0], rng=_rng()).p_value == 1
    assert permutation.paired_change([0.1, 0.2], [0.1, 0.2], rng=_rng()).p_value == 1


def test_trend_in_one_block_is_the_regression_line():
    rng = _rng(6)
    x, values = np.arange(8.0), rng.random(8) + 0.05 * np.arange(8)
    line = stats.linregress(x, values)
    found = permutation.trend(values, x, np.zeros(8), rng=rng)
    half_width = stats.t.ppf(0.975, 6) * line.stderr
    assert (found.slope, found.low) == pytest.approx((line.slope, line.slope - half_width))
    assert found.p_value == pytest.approx(line.pvalue, abs=0.05)
    two = permutation.trend([0.0, 1.0], [0.0, 1.0], [0, 0], rng=rng)
    assert two.slope == 1 and two.p_value == 1 and (two.low, two.high) == (-math.inf, math.inf)


def test_trend_in_like_blocks_is_the_mean_of_their_slopes():
    rng = _rng(7)
    x, blocks = np.tile([0.0, 2.0, 4.0, 8.0], 5), np.repeat(list("abcde"), 4)
    values = rng.random(20) + np.repeat(rng.random(5), 4) * x
    slopes = [stats.linregress(x[:4], values[blocks == b]).slope for b in "abcde"]
    found = permutation.trend(values, x, blocks, rng=rng)
    half_width = stats.t.ppf(0.975, 4) * np.std(slopes, ddof=1) / math.sqrt(5)
    assert found.slope == pytest.approx(np.mean(slopes)) and found.high - found.slope == pytest.approx(half_width)
    # Runs of a block in which x does not vary say nothing.
    more = permutation.trend([*values, 9.0, 5.0], [*x, 4.0, 4.0], [*blocks, "f", "f"], rng=rng)
    assert (more.slope, more.low) == pytest.approx((found.slope, found.low))


def test_trend_holds_its_level_and_covers_the_slope():
    rng, p_values, covered = _rng(8), [], []
    x, blocks = np.tile([0.0, 2.0, 4.0, 8.0], 4), np.repeat(range(4), 4)
    for _ in range(500):
        level = rng.random(4)[blocks]
        p_values.append(
            permutation.trend(level + rng.exponential(size=16), x, blocks, rng=rng, permutations=199).p_value
        )
        slope = 0.1 + 0.05 * rng.normal(size=4)
        found = permutation.trend(
            level + slope[blocks] * x + 0.2 * rng.normal(size=16), x, blocks, rng=rng, permutations=1
        )
        covered.append(found.low <= 0.1 <= found.high)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.92 < np.mean(covered) < 0.98


def test_wrong_input():
    rng = _rng()
    with pytest.raises(ValueError, match="axis has 3 labels for 2 runs"):
        permutation.axis_test(np.zeros((2, 3)), [0, 1, 2], [0, 0], rng=rng)
    with pytest.raises(ValueError, match="1 classes"):
        permutation.axis_test(np.zeros((2, 1)), [0, 1], [0, 0], rng=rng)
    with pytest.raises(ValueError, match="permutations"):
        permutation.axis_test(np.zeros((2, 3)), [0, 1], [0, 0], rng=rng, permutations=0)
    with pytest.raises(ValueError, match="two pairs"):
        permutation.paired_change([1.0], [2.0], rng=rng)
    with pytest.raises(ValueError, match="finite"):
        permutation.paired_change([1.0, 2.0], [2.0, np.nan], rng=rng)
    with pytest.raises(ValueError, match="does not vary"):
        permutation.trend([1.0, 2.0], [3.0, 3.0], [0, 0], rng=rng)
    with pytest.raises(ValueError, match="confidence"):
        permutation.trend([1.0, 2.0], [1.0, 3.0], [0, 0], rng=rng, confidence=2)


def test_the_least_p_is_what_the_clearest_effect_would_have():
    rng = np.random.default_rng(7)
    profiles = np.array([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1]])
    axis = np.repeat([0, 1], 3)
    clear = permutation.axis_test(profiles[axis] + 1e-3 * rng.random((6, 3)), axis, np.zeros(6), rng=rng)
    # Of 20 ways to choose three of six runs, two tell the two threes apart.
    assert clear.p_value == clear.least_p == pytest.approx(2 / 20)
    none = permutation.axis_test(rng.random((6, 3)), axis, np.zeros(6), rng=rng)
    assert none.least_p == pytest.approx(2 / 20) and none.p_value >= none.least_p
    slope = permutation.trend([0.0, 0.1, 1.0, 1.1], [0, 0, 1, 1], ["a", "b", "a", "b"], rng=rng)
    assert slope.least_p == pytest.approx(2 / 4)
