"""Means over seeds: known numbers, and by simulation that intervals hold their level and find what is there."""

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import t as student

from jaxrobust import classwise
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
    share = seeds.averaged_share(labels, gains, 4)
    np.testing.assert_allclose(share, [0.5, 1, 1, 1], atol=0.01)
    np.testing.assert_allclose(seeds.averaged_share(labels, gains[:1], 4), 1)


def test_share_narrows_the_paired_part_alone():
    """One class: the distances scale; of tied classes the part that allows for their choice stays."""
    one = classwise.PairedCounts(*(np.array([n]) for n in (100, 50, 60, 10, 20)))
    whole, half = classwise.worst_difference(one), classwise.worst_difference(one, paired_share=0.5)
    assert half.difference == whole.difference
    assert half.low - half.difference == pytest.approx((whole.low - whole.difference) / 2)
    tied = classwise.PairedCounts(*(np.full(10, n) for n in (100, 50, 50, 15, 15)))
    whole, half = classwise.worst_difference(tied), classwise.worst_difference(tied, paired_share=np.full(10, 0.5))
    assert whole.low <= half.low < 0 < half.high <= whole.high


def _outcome(base, method, *, images, seed_deviation, common, number, trials, rng):
    """Shares of trials in which the interval says better, worse, and misses the truth.

    A probit model: on image i of class c a run is right where mean[c] + (seed's shift)[c] + (image's)[i] + noise > 0,
    each of the last two with a share of the variance 1; `common` is that of the image, alike for all runs.
    """
    means, classes = (ndtri(base), ndtri(method)), len(base)
    draws = [ndtr(m + seed_deviation * rng.normal(size=(20_000, classes))).min(1).mean() for m in means]
    truth = draws[1] - draws[0]
    labels, found = np.repeat(np.arange(classes), images), []
    for _ in range(trials):
        image = math.sqrt(common) * rng.normal(size=(classes, images))

        def verdicts(mean, image=image):
            shift = seed_deviation * rng.normal(size=classes)
            noise = math.sqrt(1 - common) * rng.normal(size=image.shape)
            return ((mean + shift)[:, None] + image + noise > 0).ravel()

        runs = [(verdicts(means[0]), verdicts(means[1])) for _ in range(number)]
        share = seeds.averaged_share(labels, [b.astype(int) - a for a, b in runs], classes)
        pairs = [classwise.paired_counts(labels, a, b, classes) for a, b in runs]
        each = [classwise.worst_difference(pair, 0.95, share) for pair in pairs]
        of = seeds.seed_mean([e.difference for e in each], [e.low for e in each], [e.high for e in each], 0.95)
        found.append((of.low > 0, of.high < 0, not of.low <= truth <= of.high))
    return np.mean(found, 0)


FLAT, CLEAR = np.full(6, 0.4), np.array([0.2, *[0.5] * 5])


@pytest.mark.parametrize(
    "base, method, seed_deviation, common",
    [
        pytest.param(CLEAR, CLEAR, 0.1, 0.7, id="one-clear-class"),
        pytest.param(FLAT, FLAT, 0.1, 0.7, id="ties"),
        pytest.param(FLAT, np.array([0.4, *[0.6] * 5]), 0.0, 0.0, id="ties-against-one-clear-class"),
    ],
)
def test_no_effect_is_rarely_found(base, method, seed_deviation, common):
    """The false alarm rate is at most the level, 5 %, by three standard errors of the simulation."""
    options = {"images": 200, "seed_deviation": seed_deviation, "common": common, "number": 3, "trials": 150}
    better, worse, missed = _outcome(base, method, **options, rng=np.random.default_rng(0))
    assert max(better + worse, missed) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


def _family(means, *, images, trials, rng, seed_deviation=0.1, number=3):
    """Signs [trials, M] of what is significant at 5 % over all M methods against the first, by Bonferroni's level."""
    classes, others = len(means[0]), len(means) - 1
    labels, found = np.repeat(np.arange(classes), images), []
    for _ in range(trials):
        image = math.sqrt(0.7) * rng.normal(size=labels.size)

        def verdicts(mean, image=image):
            shift = ndtri(mean) + seed_deviation * rng.normal(size=classes)
            return shift[labels] + image + math.sqrt(0.3) * rng.normal(size=labels.size) > 0

        runs = [[verdicts(mean) for _ in range(number)] for mean in means]
        spread = seeds.pooled_spread(
            [run.reshape(classes, images).mean(1).min() for run in of_method] for of_method in runs
        )
        signs = []
        for of_method in runs[1:]:
            both = list(zip(runs[0], of_method, strict=True))
            share = seeds.averaged_share(labels, [b.astype(int) - a for a, b in both], classes)
            pairs = [classwise.paired_counts(labels, a, b, classes) for a, b in both]
            each = [classwise.worst_difference(pair, 1 - 0.05 / others, share) for pair in pairs]
            ends = [[getattr(e, name) for e in each] for name in ("difference", "low", "high")]
            of = seeds.seed_mean(*ends, 1 - 0.05 / others, spread, runs=2)
            signs.append(int(of.low > 0) - int(of.high < 0))
        found.append(signs)
    return np.array(found)


def test_many_methods_of_three_seeds():
    """Of eight methods that do nothing hardly ever one is called different; one that does a lot is found."""
    clear = np.array([0.2, *[0.5] * 3])
    signs = _family([clear] * 9, images=400, trials=40, rng=np.random.default_rng(0))
    assert signs.any(1).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 40)
    helped = np.array([0.35, *[0.5] * 3])
    signs = _family([clear, helped, *[clear] * 7], images=400, trials=20, rng=np.random.default_rng(1))
    assert (signs[:, 0] == 1).mean() > 0.8


def test_an_effect_is_found():
    options = {"images": 400, "seed_deviation": 0.05, "common": 0.7, "number": 3, "trials": 60}
    helped = np.array([0.35, *[0.5] * 5])
    better, worse, missed = _outcome(CLEAR, helped, **options, rng=np.random.default_rng(0))
    assert better > 0.8 and worse == 0 and missed <= 0.1


def test_one_seed_does_not_cover_the_seeds():
    """What the flag warns of: with seeds that differ, one of each is called different far too often."""
    options = {"images": 500, "seed_deviation": 0.3, "common": 0.7, "number": 1, "trials": 60}
    better, worse, _ = _outcome(CLEAR, CLEAR, **options, rng=np.random.default_rng(0))
    assert better + worse > 0.3
