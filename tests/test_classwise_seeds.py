"""Means over seeds: known numbers, and by simulation that intervals hold their level and find what is there."""

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import t as student
from simulations import remedies

from jaxrobust.classwise import seeds


def test_numbers_by_hand():
    of = seeds.seed_mean([0.1, 0.2, 0.3], [0.05, 0.1, 0.15], [0.2, 0.25, 0.4], 0.95)
    spread = student.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert of.mean == pytest.approx(0.2) and of.covers_seeds
    assert of.low == pytest.approx(0.2 - math.hypot(0.1, spread))
    assert of.high == pytest.approx(0.2 + math.hypot(0.25 / 3, spread))


@pytest.mark.parametrize("number", [1, 2])
def test_few_seeds_leave_the_interval_of_the_images(number):
    of = seeds.seed_mean([0.1, 0.3][:number], [0.0, 0.2][:number], [0.2, 0.4][:number], 0.95)
    middle = 0.1 * number
    assert (of.mean, of.low, of.high) == pytest.approx((middle, middle - 0.1, middle + 0.1)) and not of.covers_seeds


def test_spread_is_pooled_over_methods_or_the_methods_own_if_larger():
    spread = seeds.pooled_spread([[0.1, 0.3], [0.2, 0.2, 0.5], [0.7]])
    assert spread == pytest.approx((math.sqrt((0.02 + 0.06) / 3), 3))
    assert seeds.pooled_spread([[0.1], [0.4]]) is None
    values, wide = [0.1, 0.2, 0.3], seeds.Spread(0.2, 20)
    of = seeds.seed_mean(values, values, values, 0.95, wide, runs=2)
    assert of.high - of.mean == pytest.approx(student.ppf(0.975, 20) * math.sqrt(2) * 0.2 / math.sqrt(3))
    of = seeds.seed_mean(values, values, values, 0.95, seeds.Spread(0.01, 20), runs=2)
    assert of.high - of.mean == pytest.approx(student.ppf(0.975, 20) * 0.1 / math.sqrt(3))
    assert seeds.seed_mean(values[:2], [0.0, 0.0], [1.0, 1.0], 0.95, wide).high == 1


def test_no_seed_and_no_confidence_are_refused():
    with pytest.raises(ValueError, match="no seeds"):
        seeds.seed_mean([], [], [], 0.95)
    with pytest.raises(ValueError, match="confidence"):
        seeds.seed_mean([0.0], [0.0], [0.0], 1.0)


def test_level_is_that_of_the_interval():
    """Of a normal interval it is the p-value of the z test; the ends are cut off."""

    def interval(confidence, estimate=2.5):
        z = ndtri((1 + confidence) / 2)
        return estimate - z, estimate + z

    assert seeds.level_of(interval) == pytest.approx(2 * ndtr(-2.5), rel=1e-3)
    assert seeds.level_of(lambda confidence: interval(confidence, 0.0)) == 1
    assert seeds.level_of(lambda confidence: interval(confidence, 20.0)) == 1e-9
    low, high = interval(1 - seeds.level_of(interval))
    assert low == pytest.approx(0, abs=1e-3) and high > 0


def test_share_of_equal_and_of_unrelated_seeds():
    labels = np.repeat([0, 1, 2], 20_000)
    rng = np.random.default_rng(0)
    gains = rng.integers(-1, 2, (4, labels.size))
    gains[:, labels == 1] = gains[0, labels == 1]
    gains[:, labels == 2] = 1
    # What no two seeds have in common is left to the spread over seeds, which two do not have.
    np.testing.assert_allclose(seeds.averaged_share(labels, gains, 4), [0, 1, 1, 1], atol=0.06)
    np.testing.assert_allclose(seeds.averaged_share(labels, gains[:2], 4), [math.sqrt(0.5), 1, 1, 1], atol=0.01)
    np.testing.assert_allclose(seeds.averaged_share(labels, gains[:1], 4), 1)


def test_paired_spread_by_hand():
    """Of each class by itself; of separate trainings of the base and all methods, of heads that of their change."""
    x, y = np.array([[0.5, 0.9], [0.7, 0.8], [0.6, 1.0]]), np.array([[0.4, 0.9], [0.6, 0.9], [0.8, 0.9]])
    a, b = np.sin(x) ** 2, np.sin(y) ** 2
    spread = seeds.paired_spread([(a, b, False)])
    np.testing.assert_allclose(np.square(spread.runs).sum(0), [0.02 + 0.08, 0.02 + 0.0], atol=1e-12)
    assert spread.degrees == 4 and seeds.paired_spread([(a, b, False)] * 3).degrees == 8
    heads = seeds.paired_spread([(a, b, True), (a, a, True)])
    np.testing.assert_allclose(np.square(heads.runs).sum(0), [0.02, 0.02], atol=1e-12)
    np.testing.assert_allclose(heads.change, [(0.06) / 4, 0.02 / 4])
    assert (heads.degrees, heads.change_degrees) == (2, 4)
    distance = seeds.paired_distance(a[:, :1], a, np.array([True, False]), spread, 0.025)
    slopes = [2 * math.sqrt(p * (1 - p)) for p in a.mean(0)]
    of_both = [0.1 * (2 * slopes[0] ** 2), 0.1 * slopes[0] ** 2 + 0.02 * slopes[1] ** 2]
    np.testing.assert_allclose(distance, student.ppf(0.975, 4) * np.sqrt(np.array(of_both) / 4 / 3))
    # A checkpoint's chance is in both accuracies of its pair, and cancels.
    unchanged = seeds.paired_spread([(a, np.sin(x + 0.1) ** 2, True)])
    assert seeds.paired_distance(a[:, :1], a, np.array([True, False]), unchanged, 0.025, True)[0] < 1e-6


def test_a_method_that_varies_more_than_the_others_keeps_its_own_spread():
    calm = np.array([[0.50], [0.51], [0.49]])
    wild = np.array([[0.1], [0.9], [0.5]])
    of_calm = (calm, calm + 0.01 * np.array([[1], [-1], [0]]), False)
    spread = seeds.paired_spread([of_calm] * 9 + [(calm, calm[::-1], False)])
    found = seeds.paired_distance(calm, wild, np.array([True]), spread, 0.025)
    assert found[0] == pytest.approx(student.ppf(0.975, spread.degrees) * (wild - calm).std(ddof=1) / math.sqrt(3))


@pytest.mark.parametrize("heads", [False, True], ids=["runs", "heads"])
def test_a_class_that_varies_more_than_the_others_is_covered(heads):
    """Three seeds, four methods, the difference of the first class, which varies three times as much as the others."""
    rng, deviation, covered = np.random.default_rng(0), 0.01 * np.array([3] + [1] * 9), []
    same = np.arange(10) == 0
    for _ in range(600):
        shift = rng.normal(size=(5, 3, 10)) * deviation
        base, *methods = np.sin(0.7 + np.where(heads, 0.3, 1.0) * shift + heads * shift[0]) ** 2
        spread = seeds.paired_spread([(base, method, heads) for method in methods])
        distance = seeds.paired_distance(base[:, :1], methods[0], same, spread, 0.025, heads)
        covered.append(abs((methods[0] - base)[:, 0].mean()) <= distance[0])
    assert 0.93 < np.mean(covered) < 0.975


def test_lowest_classes_are_those_that_more_seeds_might_find():
    clear = np.array([[0.1, 0.5, np.nan], [0.11, 0.52, np.nan], [0.09, 0.48, np.nan]])
    assert seeds.lowest_classes(clear) == [0]
    near = np.array([[0.1, 0.12, 0.6], [0.2, 0.18, 0.5], [0.15, 0.2, 0.7]])
    assert seeds.lowest_classes(near) == [0, 1]
    assert seeds.lowest_classes(near[:1]) == [0]


@pytest.mark.parametrize("row", [2, 13], ids=["runs", "heads, six seeds"])
def test_more_is_found_than_before(row):
    """A gain of 11 points, three seeds, six methods, 100 images a class; the whole table: simulations/remedies.py."""
    _, design, only = remedies.ROWS[row]
    found = remedies.shares(design, 40, only=only)
    assert found["before"][0] <= 0.05 and found["after"][0] >= 0.25
    assert found["after"][1] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 40)


@pytest.mark.parametrize("row", [6, 8, 9, 10, 14], ids=["nothing", "heads", "ties", "one varies more", "worst varies"])
def test_what_does_nothing_is_rarely_found(row):
    """Any of six methods, where none differs: at most 5 %, by three standard errors of the simulation."""
    _, design, _ = remedies.ROWS[row]
    found = remedies.shares(design, 20, rules=("after",))
    assert found["after"][1] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20)


def test_one_seed_does_not_cover_the_seeds():
    """What the flag warns of: with seeds that differ, one of each is called different far too often."""
    design = remedies.Design(remedies.MIDDLE, (remedies.MIDDLE,), images=1000, number=1, deviations=(0.4,))
    assert remedies.shares(design, 30, groups=1, rules=("after",))["after"][1] > 0.3
