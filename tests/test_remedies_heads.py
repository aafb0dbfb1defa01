"""Heads against what they have to be equal to, and against theory."""

import numpy as np
import pytest
from scipy import optimize, stats

from jaxrobust.posthoc import heads
from jaxrobust.posthoc.heads import Head


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 4)) * [[0.2, 1.0, 3.0, 0.7]]
    return Head(kernel.astype(np.float32), rng.normal(size=4).astype(np.float32))


@pytest.fixture
def features():
    return np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)


def logits(head, features):
    return features @ head.kernel + head.bias[None]


def test_tau_norm_from_the_identity_to_unit_norms(head):
    same = heads.tau_norm(head, 0.0, keep_bias=True)
    np.testing.assert_array_equal(same.kernel, head.kernel)
    np.testing.assert_array_equal(same.bias, head.bias)
    assert not heads.tau_norm(head, 0.5).bias.any()
    norms = np.linalg.norm(head.kernel, axis=0)
    np.testing.assert_allclose(np.linalg.norm(heads.tau_norm(head, 0.5).kernel, axis=0), norms**0.5, rtol=1e-6)
    unit = heads.head_norm(head)
    np.testing.assert_allclose(np.linalg.norm(unit.kernel, axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(unit.bias, head.bias)
    empty = Head(head.kernel * np.float32([[0, 1, 1, 1]]), head.bias)
    assert np.isfinite(heads.tau_norm(empty, 2.0).kernel).all(), "a class without weights"


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
def test_tau_norm_is_lws_with_the_norms_as_factors(head, tau):
    unbiased = Head(head.kernel, np.zeros_like(head.bias))
    by_factors = heads.scaled(unbiased, np.linalg.norm(head.kernel, axis=0) ** -tau)
    np.testing.assert_allclose(by_factors.kernel, heads.tau_norm(head, tau).kernel, rtol=1e-6)


def test_factors_are_on_the_logits(head, features):
    factors = np.array([0.5, 1.0, 2.0, 3.0])
    expected = logits(head, features) * factors[None]
    np.testing.assert_allclose(logits(heads.scaled(head, factors), features), expected, rtol=1e-4, atol=1e-5)


def test_the_nearest_mean_is_the_nearest(features):
    means = np.random.default_rng(2).normal(size=(4, 6))
    distances = np.linalg.norm(features[:, None] - means[None], axis=2)
    head = heads.nearest_mean(means)
    np.testing.assert_array_equal(logits(head, features).argmax(1), distances.argmin(1))
    expected = np.square(features).sum(1, keepdims=True) - np.square(distances)
    np.testing.assert_allclose(logits(head, features), expected, rtol=1e-4, atol=1e-4)


def test_the_nearest_direction_is_that_of_the_smallest_angle(features):
    means = np.random.default_rng(2).normal(size=(4, 6)) * [[1.0], [0.1], [5.0], [2.0]]
    head = heads.nearest_direction(means)
    cosines = features @ means.T / np.linalg.norm(means, axis=1)[None] / np.linalg.norm(features, axis=1)[:, None]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(logits(head, unit), cosines, rtol=1e-4, atol=1e-5)


def test_a_prior_of_equal_classes_changes_nothing(head, features):
    for values in (np.full(4, 130), np.full(4, 0.25), np.zeros(4)):
        adjusted = heads.logit_adjusted(head, heads.prior_of(values), 1.0)
        np.testing.assert_array_equal(logits(adjusted, features), logits(head, features))


def test_a_prior_has_a_logarithm_and_adds_up_to_one():
    prior = heads.prior_of([0.0, 0.5, 1.0])
    assert prior.min() > 0 and prior.sum() == pytest.approx(1)
    assert prior[2] / prior[1] == pytest.approx(2)


@pytest.mark.parametrize("margin", [1.0, 0.7])  # no attack, and one of radius 0.3 of the distance to the middle
def test_logit_adjustment_moves_the_boundary_back_to_the_middle(margin):
    """Classes N(-m, 1) and N(m, 1), five of the second to one of the first: methods.md puts c at ln 5 / (2 m)."""
    rng = np.random.default_rng(0)
    counts = np.array([10_000, 50_000])
    t = np.concatenate([rng.normal(-margin, 1, counts[0]), rng.normal(margin, 1, counts[1])])
    sign = np.repeat([-1, 1], counts)

    def loss(ab):
        z = sign * (ab[0] * t + ab[1])
        slope = -sign / (1 + np.exp(z))
        return np.logaddexp(0, -z).mean(), np.array([(slope * t).mean(), slope.mean()])

    slope, intercept = optimize.minimize(loss, [1.0, 0.0], jac=True, tol=1e-10).x
    assert intercept / slope == pytest.approx(np.log(5) / (2 * margin), abs=0.03)
    head = Head(np.float32([[-slope / 2, slope / 2]]), np.float32([-intercept / 2, intercept / 2]))
    adjusted = heads.logit_adjusted(head, counts / counts.sum(), 1.0)
    c = float(np.diff(adjusted.bias)[0] / slope)
    errors = stats.norm.cdf([c - margin, -c - margin])
    np.testing.assert_allclose(errors, stats.norm.cdf(-margin), atol=0.008)


def test_balancing_biases_makes_two_classes_withstand_alike():
    """Classes N(-m, 1) and N(m, K^2), of which the second withstands less: alike at c = m (K - 1) / (K + 1)."""
    margin, spread = 0.7, 2.0

    def measure(head):
        c = float(np.diff(head.bias)[0])
        return stats.norm.cdf([margin - c, (margin + c) / spread])

    start = Head(np.float32([[-0.5, 0.5]]), np.zeros(2, np.float32))
    trials = heads.balance_bias(start, measure, lambda accuracy: accuracy, size=1.0, iterations=40)
    assert len(trials) == 41 and trials[0].head is start
    best = heads.best(trials, lambda accuracy: accuracy.mean() + accuracy.min())
    np.testing.assert_allclose(best.measured, 1 - 0.320369, atol=2e-3)
    np.testing.assert_allclose(np.diff(best.head.bias), 0.233333, atol=5e-3)
    assert best.head.bias.sum() == pytest.approx(0, abs=1e-6)


def test_bias_steps_become_smaller_and_end():
    """Where accuracies do not answer, each of 4 steps moves by what is left of the size: 4, 3, 2 and 1 quarters."""
    start = Head(np.float32([[-0.5, 0.5]]), np.zeros(2, np.float32))
    trials = heads.balance_bias(start, lambda head: np.array([0.8, 0.6]), lambda a: a, size=1.0, iterations=4)
    moves = np.diff([trial.head.bias[1] for trial in trials])
    np.testing.assert_allclose(moves, 0.1 * np.array([4, 3, 2, 1]) / 4, rtol=1e-5)


@pytest.mark.parametrize("keep_bias", [False, True])
def test_tried_heads_keep_the_bias_if_asked_to(head, keep_bias):
    for trial in heads.try_taus(head, lambda tried: 0.0, keep_bias=keep_bias):
        np.testing.assert_array_equal(trial.head.bias, head.bias if keep_bias else np.zeros_like(head.bias))


def test_of_equal_trials_the_first_is_best(head):
    trials = heads.try_taus(head, lambda tried: 1.0, keep_bias=True)
    assert [trial.setting for trial in trials][:4] == [0.0, 0.1, 0.2, 0.3] and trials[-1].setting == 2.0
    assert len(trials) == 21 and heads.best(trials, lambda score: score).setting == 0
