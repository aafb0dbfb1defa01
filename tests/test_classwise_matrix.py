"""Matrix, curve and focus against small cases by hand, and intervals against their own definition."""

import numpy as np
import pytest
from scipy.stats import binom

from jaxrobust.classwise import curve, focus, matrix

LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
TARGETS = np.array([[1, 2], [1, 2], [2, 1], [2, 1], [0, 2], [2, 0], [0, 1]])
REACHED = np.array([[1, 0], [1, 1], [0, 0], [0, 1], [0, 0], [1, 0], [1, 1]], bool)


def test_matrix_by_hand():
    counts = matrix.targeted_counts(LABELS, TARGETS, REACHED, 3)
    assert counts.complete
    np.testing.assert_array_equal(counts.turned, [[0, 3, 1], [0, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(counts.exposed, [3, 1, 1])
    summary = matrix.matrix_summary(counts)
    nan = np.nan
    np.testing.assert_allclose(summary.share, [[nan, 3 / 4, 1 / 4], [0, nan, 1 / 2], [1, 1, nan]])
    np.testing.assert_allclose(summary.ease, [1 / 2, 7 / 8, 3 / 8])
    np.testing.assert_allclose(summary.exposure, [3 / 4, 1 / 2, 1])
    np.testing.assert_allclose(summary.mean_exposure, [1 / 2, 1 / 4, 1])
    np.testing.assert_allclose(summary.asymmetry[0], [nan, 3 / 4, -3 / 4])
    assert summary.strongest_pair() == (2, 0)
    off = ~np.eye(3, dtype=bool)
    assert (summary.low[off] <= summary.share[off]).all() and (summary.share[off] <= summary.high[off]).all()


def test_what_was_not_tried_is_unknown_and_not_zero():
    counts = matrix.targeted_counts(LABELS, TARGETS[:, :1], REACHED[:, :1], 3)
    assert not counts.complete
    np.testing.assert_array_equal(counts.tried, [[0, 2, 2], [1, 0, 1], [1, 0, 0]])
    summary = matrix.matrix_summary(counts)
    nan = np.nan
    np.testing.assert_array_equal(summary.share, [[nan, nan, nan], [nan, nan, nan], [1, nan, nan]])
    np.testing.assert_allclose(summary.at_least, [[nan, 1 / 2, 0], [0, nan, 1 / 2], [1, 0, nan]])
    whole = matrix.matrix_summary(matrix.targeted_counts(LABELS, TARGETS, REACHED, 3))
    for name in ("at_least", "ease", "exposure", "mean_exposure"):
        part, full = getattr(summary, name), getattr(whole, name)
        assert (part <= full)[~np.isnan(full)].all(), "what is known of a part is a lower bound"


def test_a_class_without_examples_is_a_target_all_the_same():
    counts = matrix.targeted_counts(np.array([0, 1]), np.array([[1, 2], [0, 2]]), np.ones((2, 2), bool), 3)
    summary = matrix.matrix_summary(counts)
    assert counts.complete and np.isnan(summary.share[2]).all() and np.isnan(summary.exposure[2])
    np.testing.assert_array_equal(summary.ease, [1, 1, 1])


@pytest.mark.parametrize(
    "labels, targets, reached",
    [
        (LABELS, LABELS[:, None], REACHED[:, :1]),
        (LABELS, TARGETS, REACHED.astype(int)),
        (LABELS, TARGETS[:3], REACHED[:3]),
    ],
)
def test_what_cannot_be_counted_is_refused(labels, targets, reached):
    with pytest.raises(ValueError):
        matrix.targeted_counts(labels, targets, reached, 3)


def test_curve_and_median_agree():
    rng = np.random.default_rng(0)
    radii = np.array([0.0, 0.1, 0.2, 0.3])
    labels = rng.integers(0, 3, 200)
    breaking = rng.choice([*radii, np.inf], 200)
    correct = curve.correct_by_radius(labels, breaking, radii, 3)
    assert (np.diff(correct, axis=0) <= 0).all()
    for c in range(3):
        of_class = breaking[labels == c]
        below = radii[correct[:, c] <= of_class.size / 2]
        assert curve.median_radius(of_class).value == (below[0] if below.size else np.inf)


def test_median_interval_is_the_sign_tests():
    for n in (1, 5, 6, 9, 50, 1001):
        low, high = curve.median_radius(np.arange(n))[1:]
        if n < 6:
            assert (low, high) == (0, np.inf), "too few examples for 95 %"
            continue
        k = int(low) + 1
        assert high == n - k
        assert 2 * binom.cdf(k - 1, n, 0.5) <= 0.05 < 2 * binom.cdf(k, n, 0.5)
    assert curve.median_radius([]) == (None, None, None)


def test_focus_by_hand():
    found = focus.focused_attack([10, 40, 45], [50, 50, 100], 0, chosen_here=False)
    assert (found.success, found.average) == (0.8, 105 / 200)
    assert found.gain == pytest.approx(0.8 - 105 / 200)
    assert found.low < found.gain < found.high
    careful = focus.focused_attack([10, 40, 45], [50, 50, 100], 0, chosen_here=True)
    assert careful.low < found.low and found.high < careful.high
    assert focus.focused_attack([0, 3], [0, 4], 0, chosen_here=False) is None
    assert focus.focused_attack([3, 0], [4, 0], 0, chosen_here=False) is None


def test_focus_interval_covers_although_the_class_is_chosen_by_the_data():
    """Ten equal classes: the true gain is 0 whichever is chosen, and the naive interval misses it too often."""
    rng = np.random.default_rng(1)
    count = np.full(10, 100)
    missed = {False: 0, True: 0}
    for correct in rng.binomial(100, 0.4, (400, 10)):
        for chosen_here in missed:
            missed[chosen_here] += (
                focus.focused_attack(correct, count, correct.argmin(), chosen_here=chosen_here).low > 0
            )
    assert missed[True] <= 0.05 * 400 < missed[False]
