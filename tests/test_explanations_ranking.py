"""Rank correlations with intervals and p-values of known level, and predictions of held-out runs."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxrobust.classwise.agreement import unit_ranks
from jaxrobust.explanations import ranking


def rng(seed=0):
    return np.random.default_rng(seed)


def test_one_run_is_spearmans_correlation_with_its_exact_p_value():
    x, y = rng(1).normal(size=(2, 6))
    y[3] = y[1]
    found = ranking.associate(x, y, rng())
    assert found.correlation == pytest.approx(stats.spearmanr(x, y).statistic)
    reached = stats.permutation_test((x,), lambda x: stats.spearmanr(x, y).statistic, permutation_type="pairings")
    # scipy doubles the smaller tail.
    assert found.p_value == pytest.approx(reached.pvalue, rel=0.2)
    assert found.low < found.correlation < found.high and found.classes == 6
    # Any rising function of the probe is the same probe, and a falling one has the other sign.
    assert ranking.associate(np.exp(x), y, rng())[:4] == pytest.approx(found[:4])
    assert ranking.associate(-x, y, rng()).correlation == pytest.approx(-found.correlation)


def test_the_order_of_classes_does_not_matter():
    x, y = rng(2).normal(size=(2, 3, 6))
    order = rng(3).permutation(6)
    assert ranking.associate(x, y, rng())[:4] == pytest.approx(ranking.associate(x[:, order], y[:, order], rng())[:4])
    np.testing.assert_allclose(ranking.held_out(x, y), ranking.held_out(x[:, order], y[:, order]))


def test_equal_runs_are_one():
    x, y = rng(4).normal(size=(2, 10))
    one, many = (ranking.associate(np.tile(x, (n, 1)), np.tile(y, (n, 1)), rng()) for n in (1, 5))
    assert many[:4] == pytest.approx(one[:4])


def test_p_values_of_no_relation_keep_their_level():
    draws = rng(5).normal(size=(600, 2, 4, 6)) + rng(6).normal(size=(600, 2, 1, 6))  # four runs on the same classes
    p_values = np.array([ranking.associate(*draw, rng()).p_value for draw in draws])
    for level in (0.05, 0.2, 0.5):
        assert (p_values <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 600)
    assert abs((p_values <= 0.5).mean() - 0.5) < 0.07


def test_intervals_cover():
    correlation, classes = 0.6, 12
    truth = 6 / math.pi * math.asin(correlation / 2)
    x, noise = rng(7).normal(size=(2, 4000, classes))
    y = correlation * x + math.sqrt(1 - correlation**2) * noise
    ranks = [unit_ranks(values) for values in (x, y)]
    ends = np.array([ranking.fisher_interval(r, classes, 0.95) for r in (ranks[0] * ranks[1]).sum(1)])
    assert ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean() == pytest.approx(0.95, abs=0.015)


def test_perfect_order_and_too_few_classes():
    found = ranking.associate([1, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0.4, 0.5], rng())
    assert found.correlation == pytest.approx(1) and found.high == 1 and -1 < found.low < 0.95
    assert found.p_value == pytest.approx(2 / 120)
    two = ranking.associate([1, 2], [0.3, 0.1], rng())
    assert (two.correlation, two.low, two.high, two.p_value) == (pytest.approx(-1), -1, 1, 1)


def test_probes_that_say_nothing():
    same = ranking.associate([2, 2, 2, 2], [0.1, 0.2, 0.3, 0.4], rng())
    assert math.isnan(same.correlation) and math.isnan(same.p_value)
    absent = ranking.associate([1, np.nan, 3, 2, 4], [0.1, 0.2, np.nan, 0.4, 0.5], rng())
    assert absent.classes == 3 and absent.correlation == pytest.approx(1)
    assert ranking.associate([np.nan] * 3, [1, 2, 3], rng()).classes == 0
    x, y = np.random.default_rng(0).random((2, 3, 5))
    assert np.isnan(ranking.held_out(x[:, :4], y[:, :4])).all() and np.isfinite(ranking.held_out(x, y)).all()


def test_a_line_common_to_all_runs_predicts_everything():
    x = stats.zscore(rng(8).normal(size=(3, 8)), axis=1)
    y = 0.3 * x + np.array([[0.1], [0.5], [0.9]])  # levels of runs do not count
    np.testing.assert_allclose(ranking.held_out(x, y), 1)
    # Nor do the units of the probe.
    units, levels = np.array([[1.0], [1e3], [1e-3]]), np.array([[0.0], [7], [-5]])
    np.testing.assert_allclose(ranking.held_out(units * x + levels, y), 1)
    # The slope is that of the others alone.
    y[2] = -y[2]
    assert ranking.held_out(x, y)[2] == pytest.approx(1 - 2**2)


def test_neither_run_nor_class_is_known_to_the_line_that_predicts_it():
    x, y = rng(10).normal(size=(2, 3, 6))
    x = stats.zscore(x, axis=1)
    expected = np.zeros(3)
    for r in range(3):
        others, errors, squares = [s for s in range(3) if s != r], 0.0, 0.0
        for c in range(6):
            left = [k for k in range(6) if k != c]
            u, v = (z[:, left] - z[:, left].mean(1, keepdims=True) for z in (x, y))
            slope = (u[others] * v[others]).sum() / (u[others] ** 2).sum()
            target = y[r, c] - y[r, left].mean()
            errors += (target - slope * (x[r, c] - x[r, left].mean())) ** 2
            squares += target**2
        expected[r] = 1 - errors / squares
    np.testing.assert_allclose(ranking.held_out(x, y), expected)


def test_of_irrelevant_probes_the_best_is_no_finding():
    """Classes alike in all runs: R^2 of one probe is below 0 on average, and p of the best of eight keeps its level."""
    generator, means, p_values = rng(11), [], []
    for _ in range(150):
        robustness = generator.normal(size=10) + 0.2 * generator.normal(size=(5, 10))
        probes = generator.normal(size=(8, 1, 10)) + 0.3 * generator.normal(size=(8, 5, 10))
        means += [ranking.held_out(probe, robustness).mean() for probe in probes]
        p_values.append(ranking.held_out_p_values(probes, robustness, generator).min())
    assert -0.25 < np.mean(means) < -0.05
    assert np.mean(np.array(p_values) < 0.05) < 0.11 and 0.35 < np.mean(p_values) < 0.65


def test_p_of_a_probe_that_predicts_is_small_and_of_one_that_cannot_be_measured_unknown():
    robustness = rng(12).normal(size=8) + 0.05 * rng(13).normal(size=(4, 8))
    probes = np.stack([robustness + 0.05, rng(14).normal(size=(4, 8)), np.full((4, 8), np.nan)])
    found = ranking.held_out_p_values(probes, robustness, rng())
    assert found[0] == pytest.approx(1 / 1000) and found[1] > 0.05 and math.isnan(found[2])


def test_the_yardstick_is_the_mean_of_the_other_runs():
    y = rng(9).normal(size=(3, 7))
    centred = y - y.mean(1, keepdims=True)
    predicted = (centred[1] + centred[2]) / 2
    expected = 1 - np.square(centred[0] - predicted).sum() / np.square(centred[0]).sum()
    assert ranking.held_out_by_class(y)[0] == pytest.approx(expected)
    np.testing.assert_allclose(ranking.held_out_by_class(np.tile(y[:1], (4, 1))), 1)


def test_the_ceiling_is_what_the_truth_would_reach():
    """Over redraws of seeds and of the images that all seeds of a setting share."""
    rng, truth, images, seeds = np.random.default_rng(3), np.linspace(0.3, 0.7, 8), 60, 4
    reached, found = [], []
    for _ in range(400):
        seen = rng.binomial(images, truth) / images  # what these images would give, whatever the seed
        accuracy = seen + rng.normal(0, 0.05, (seeds, len(truth)))
        mean = accuracy.mean(0) - accuracy.mean()
        for best in (seen, truth):
            reached.append(1 - np.square(mean - (best - best.mean())).sum() / np.square(mean).sum())
        found.append(ranking.ceiling(accuracy, np.full(len(truth), images)))
    of_seeds, of_images = np.reshape(reached, (-1, 2)).mean(0)
    assert np.mean(found, axis=0) == pytest.approx([of_seeds, of_images], abs=0.01)
    assert of_images < of_seeds - 0.05


def test_the_ceiling_of_one_seed_is_unknown():
    assert np.isnan(ranking.ceiling([[0.1, 0.5]], [10, 10])).all()
    assert np.isnan(ranking.ceiling([[0.5, 0.5], [0.5, 0.5]], [10, 10])).all()
    assert ranking.ceiling([[0.1, 0.5, np.nan]] * 2, [10, 10, 0])[0] == 1
