"""Paired comparisons: published and hand-computed numbers, coverage, and no more false alarms than the level says."""

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxrobust import classwise
from jaxrobust.classwise import paired

CONFIDENCE = 0.95
ALPHA = 0.05


def _pairs(rng, accuracy_a, accuracy_b, agreement, count):
    """Counts of one simulated test set; agreement 0 is independence, 1 as few discordant examples as can be."""
    accuracy_a, accuracy_b = np.broadcast_arrays(np.asarray(accuracy_a, float), accuracy_b)
    count = np.broadcast_to(count, accuracy_a.shape)
    both = agreement * np.minimum(accuracy_a, accuracy_b) + (1 - agreement) * accuracy_a * accuracy_b
    cells = np.stack([both, accuracy_a - both, accuracy_b - both, 1 - accuracy_a - accuracy_b + both], -1)
    cells = np.maximum(cells, 0)
    drawn = rng.multinomial(count, cells / cells.sum(-1, keepdims=True))
    return classwise.PairedCounts(count, drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2], drawn[:, 1], drawn[:, 2])


def _slack(sets, level=ALPHA):
    """Three standard errors of a share found in that many simulations."""
    return 3 * np.sqrt(level * (1 - level) / sets)


def test_counts_of_pairs_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    a = np.array([True, True, False, False, True, False, True])
    b = np.array([True, False, True, False, True, True, False])
    pairs = classwise.paired_counts(labels, a, b, 4)
    assert pairs.count.tolist() == [4, 2, 0, 1]
    assert pairs.correct_a.tolist() == [2, 1, 0, 1] and pairs.correct_b.tolist() == [2, 2, 0, 0]
    assert pairs.only_a.tolist() == [1, 0, 0, 1] and pairs.only_b.tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(classwise.paired_difference(pairs), [0, 0.5, np.nan, -1])
    assert [int(getattr(pairs.total(), f)[0]) for f in ("count", "only_a", "only_b")] == [7, 2, 2]


def test_wrong_flags_are_named():
    with pytest.raises(ValueError, match="must be bool"):
        classwise.paired_counts([0, 1], [1, 0], [True, False], 2)
    with pytest.raises(ValueError, match="one per label"):
        classwise.paired_counts([0, 1], [True, False], [True], 2)


def test_mcnemar_is_the_exact_binomial_test():
    assert classwise.mcnemar_test(1, 6) == pytest.approx(0.125)
    assert classwise.mcnemar_test(0, 0) == 1
    only_a, only_b = np.random.default_rng(0).integers(0, 30, (2, 50))
    found = classwise.mcnemar_test(only_a, only_b)
    for a, b, p in zip(only_a, only_b, found, strict=True):
        assert p == pytest.approx(binomtest(int(a), int(a + b)).pvalue if a + b else 1)


def test_holm_by_hand():
    np.testing.assert_allclose(classwise.holm_correction([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(classwise.holm_correction([0.6, np.nan, 0.5]), [1, np.nan, 1])
    assert classwise.holm_correction([]).shape == (0,)
    # Weights 2, 1, 1: the first p-value is compared with half of the level, then the next with half of it.
    np.testing.assert_allclose(classwise.holm_correction([0.02, 0.015, 0.5], [2, 1, 1]), [0.04, 0.04, 0.5])


def test_holm_over_groups_leaves_a_small_group_half_of_the_level():
    few, many = paired.holm_over_groups([[0.02, np.nan], [0.9] * 50])
    np.testing.assert_allclose(few, [0.04, np.nan])
    np.testing.assert_allclose(many, [1.0] * 50)
    (alone,) = paired.holm_over_groups([[0.01, 0.04]])
    np.testing.assert_allclose(alone, classwise.holm_correction([0.01, 0.04]))


@pytest.mark.parametrize(
    "only_a, only_b, count, confidence, low, high",
    [
        # Bentur et al. (2009), airway hyper-responsiveness, in Fagerland, Lydersen & Laake (2014).
        (7, 1, 21, 0.95, -0.517, -0.026),
        # As computed by scoreci.mp of the R package PropCIs.
        (25, 28, 618, 0.90, -0.0148, 0.0247),
    ],
)
def test_interval_reproduces_published_figures(only_a, only_b, count, confidence, low, high):
    found = classwise.paired_interval([only_a], [only_b], [count], confidence)
    digits = len(str(low).split(".")[1])
    assert [round(float(bound[0]), digits) for bound in found] == [low, high]


def test_interval_without_discordant_examples_has_a_width():
    low, high = classwise.paired_interval([0, 0], [0, 0], [10, 1000])
    z_squared = 1.959963984540054**2
    np.testing.assert_allclose(high, z_squared / (np.array([10, 1000]) + z_squared))
    np.testing.assert_allclose(low, -high)


def test_interval_at_the_ends():
    low, high = classwise.paired_interval([0, 5, 0], [5, 0, 0], [5, 5, 0])
    assert (high[0], low[1]) == (1, -1) and (low[2], high[2]) == (-1, 1)
    assert 0 < low[0] < 1 and high[1] == pytest.approx(-low[0])


def test_interval_mirrors_and_narrows():
    a, b, n = np.array([3, 30, 300]), np.array([5, 50, 500]), np.array([20, 200, 2000])
    low, high = classwise.paired_interval(a, b, n)
    mirrored = classwise.paired_interval(b, a, n)
    np.testing.assert_allclose((low, high), (-mirrored[1], -mirrored[0]), atol=1e-12)
    assert (np.diff(high - low) < 0).all() and (low < 0.1).all() and (high > 0.1).all()


@pytest.mark.parametrize(
    "options, message",
    [
        (([1], [1], [1]), "2 correct of 1"),
        (([1], [1], [4], 95), "confidence"),
    ],
)
def test_wrong_input_of_the_interval(options, message):
    with pytest.raises(ValueError, match=message):
        classwise.paired_interval(*options)


@pytest.mark.parametrize("count", [20, 100, 1000])
@pytest.mark.parametrize("a, b, agreement", [(0.4, 0.4, 0.8), (0.4, 0.5, 0.5), (0.05, 0.02, 0.5), (0.95, 0.99, 0.9)])
def test_interval_covers_the_difference(a, b, agreement, count):
    """Tango's interval is approximate: over the classes of one call its coverage may be a little below the level."""
    sets = 4000
    pairs = _pairs(np.random.default_rng(0), np.full(sets, a), b, agreement, count)
    low, high = classwise.paired_interval(pairs.only_a, pairs.only_b, pairs.count, CONFIDENCE)
    covered = np.mean((low <= b - a) & (b - a <= high))
    assert covered >= CONFIDENCE - _slack(sets) - 0.01


@pytest.mark.parametrize("count", [30, 1000])
def test_equal_models_are_not_told_apart(count):
    """Of 200 pairs of equal models at most 5 % have a class that differs, or a worst class that does."""
    rng = np.random.default_rng(0)
    accuracy = np.linspace(0.2, 0.8, 10)
    class_alarms = worst_alarms = 0
    for _ in range(200):
        pairs = _pairs(rng, accuracy, accuracy, 0.6, count)
        p_values = classwise.mcnemar_test(pairs.only_a, pairs.only_b)
        class_alarms += (classwise.holm_correction(p_values) <= ALPHA).any()
        worst = classwise.worst_difference(pairs)
        worst_alarms += not worst.low <= 0 <= worst.high
    assert class_alarms / 200 <= ALPHA + _slack(200)
    assert worst_alarms / 200 <= ALPHA + _slack(200)


def test_a_real_difference_is_found():
    rng = np.random.default_rng(0)
    accuracy = np.linspace(0.2, 0.8, 10)
    better = accuracy + np.where(np.arange(10) == 0, 0.15, 0)
    pairs = _pairs(rng, accuracy, better, 0.6, 1000)
    corrected = classwise.holm_correction(classwise.mcnemar_test(pairs.only_a, pairs.only_b))
    assert np.flatnonzero(corrected <= ALPHA).tolist() == [0]
    # Class 1 is at 27 %, so the lowest accuracy gains less than class 0.
    one_worst = np.array([0.2] + [0.6] * 9)
    worst = classwise.worst_difference(_pairs(rng, one_worst, one_worst + 0.1, 0.6, 1000))
    assert 0 < worst.low < 0.1 < worst.high < 0.2


LINEAR = np.linspace(0.2, 0.7, 10)


@pytest.mark.parametrize(
    "a, b, agreement, count",
    [
        pytest.param(np.full(10, 0.4), np.full(10, 0.4), 0.7, 100, id="equal"),
        pytest.param(np.full(10, 0.4), np.array([0.2] + [0.4] * 9), 0.7, 1000, id="equal against one worst"),
        pytest.param(np.array([0.2] + [0.4] * 9), np.full(10, 0.4), 0.7, 50, id="one worst against equal"),
        pytest.param(LINEAR, LINEAR[::-1] + 0.05, 0.5, 200, id="another class"),
        pytest.param(np.array([0.01] + [0.5] * 9), np.array([0.03] + [0.5] * 9), 0.7, 1000, id="near 0"),
        pytest.param(np.array([0.3] + [0.6] * 9), np.array([0.4] + [0.6] * 9), 0.9, 1000, id="one clearly worst"),
        pytest.param(np.full(10, 0.01), np.full(10, 0.02), 0.5, 30, id="near 0, few examples"),
        pytest.param(np.full(10, 1.0), np.full(10, 0.99), 1.0, 30, id="near 1"),
        pytest.param(np.full(4, 0.5), np.full(4, 0.4), 0.5, np.array([5, 1000, 0, 100]), id="unbalanced, absent"),
        pytest.param(np.array([0.3]), np.array([0.35]), 0.5, 200, id="one class"),
    ],
)
def test_difference_of_the_worst_class_is_covered(a, b, agreement, count):
    rng = np.random.default_rng(0)
    present = np.broadcast_to(count, a.shape) > 0
    truth = b[present].min() - a[present].min()
    sets = 300
    hits = 0
    for _ in range(sets):
        found = classwise.worst_difference(_pairs(rng, a, b, agreement, count), CONFIDENCE)
        assert found.low <= found.difference <= found.high
        hits += found.low <= truth <= found.high
    assert hits / sets >= CONFIDENCE - _slack(sets)


def test_percentile_bootstrap_of_the_difference_does_not_cover_it():
    """Why the interval is made otherwise, as its docstring says."""
    rng = np.random.default_rng(0)
    b = np.array([0.2] + [0.4] * 9)
    hits = 0
    for _ in range(100):
        pairs = _pairs(rng, np.full(10, 0.4), b, 0.7, 1000)
        both = pairs.correct_a - pairs.only_a
        cells = np.stack([both, pairs.only_a, pairs.only_b, pairs.count - both - pairs.only_a - pairs.only_b], -1)
        drawn = rng.multinomial(pairs.count, cells / pairs.count[:, None], (300, 10))
        differences = (drawn[..., 0] + drawn[..., 2]).min(1) - (drawn[..., 0] + drawn[..., 1]).min(1)
        low, high = np.quantile(differences / 1000, [0.025, 0.975])
        hits += low <= -0.2 <= high
    assert hits < 60


def test_a_named_class_makes_the_interval_narrower():
    """Of cats at 20 %, 35 of 200 gained: without a name the upper end is that of the cats, the lower one is wider."""
    pairs = classwise.PairedCounts(
        *(np.array(n) for n in ([200] * 3, [40, 100, 110], [75, 102, 112], [5, 20, 20], [40, 22, 22]))
    )
    wide, named = (classwise.worst_difference(pairs, worst_a=of, worst_b=of) for of in (None, [0]))
    assert wide.difference == named.difference == 0.175
    assert wide.low < named.low < 0.175 < named.high <= wide.high
    low, high = classwise.paired_interval([5], [40], [200])
    assert named.low == pytest.approx(low[0]) and named.high == pytest.approx(high[0], abs=0.02)
    # A wrong name is no error: the true worst class of A is lower still.
    assert classwise.worst_difference(pairs, worst_a=[1]).low < named.low
    assert classwise.worst_difference(pairs, worst_a=[0, 1, 2], worst_b=[0, 1, 2]) == wide


def test_worst_difference_of_nothing():
    nothing = classwise.paired_counts([], np.zeros(0, bool), np.zeros(0, bool), 3)
    assert classwise.worst_difference(nothing) == classwise.WorstDifference(None, None, None)


def test_worst_difference_of_a_thousand_classes():
    rng = np.random.default_rng(0)
    found = classwise.worst_difference(_pairs(rng, np.full(1000, 0.5), np.full(1000, 0.5), 0.5, 50))
    assert found.low < 0 < found.high
