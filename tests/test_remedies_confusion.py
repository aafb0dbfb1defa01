"""Rules that look at confusions against published numbers and invariants."""

import jax.numpy as jnp
import numpy as np

from jaxrobust.remedies import confusion
from jaxrobust.remedies.rule import Run

PGD_AT = Run(num_epochs=10, first_epoch=0, knobs=("weight_robust",), beta=0.0)
TRADES = Run(num_epochs=10, first_epoch=0, knobs=("weight_natural", "weight_robust"), beta=6.0)
RNG = np.random.default_rng(0)


def test_dafa_weights_against_the_published_rule():
    probability = jnp.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.05, 0.15, 0.8]])
    np.testing.assert_allclose(confusion.dafa_weights(probability, 1.0), [0.96, 1.36, 0.68], rtol=1e-5)


def test_dafa_weights_are_an_exchange_and_never_negative():
    probability = RNG.dirichlet(np.ones(7), size=7)
    np.testing.assert_allclose(confusion.dafa_weights(jnp.asarray(probability), 1.0).sum(), 7.0, rtol=1e-5)
    for strength in (1.0, 10.0):
        weights = confusion.dafa_weights(jnp.asarray(probability), strength)
        np.testing.assert_allclose(weights.sum(), 7.0, rtol=1e-5)
        assert weights.min() > 0
    # Equals give each other nothing.
    np.testing.assert_allclose(confusion.dafa_weights(jnp.full((4, 4), 0.25), 1.0), np.ones(4), rtol=1e-6)


def test_dafa_decides_once():
    """By the epoch before it begins, whatever comes after."""
    rule = confusion.dafa(TRADES, strength=1.0, begin=0.2)
    first = {
        "count": jnp.full(3, 100),
        "probability": 100 * jnp.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.05, 0.15, 0.8]]),
    }
    later = {"count": jnp.full(3, 100), "probability": 100 * jnp.eye(3)}
    state = rule.update(rule.init(jnp.ones(3)), later, 1)
    np.testing.assert_array_equal(state, np.ones(3))
    state = rule.update(rule.update(state, first, 2), later, 3)
    values = rule.knob_values(state, None, 0.5)
    assert set(values) == {"weight_natural", "radius_scale"}
    np.testing.assert_allclose(values["radius_scale"], [0.96, 1.36, 0.68], rtol=1e-5)
    assert set(confusion.dafa(PGD_AT, strength=1.0, begin=0.2).knobs) == {"weight_robust", "radius_scale"}


def test_dafa_waits_for_all_remedies_to_begin():
    run = TRADES._replace(first_epoch=5)
    rule = confusion.dafa(run, strength=1.0, begin=0.2)
    statistics = {"count": jnp.full(3, 100), "probability": 100 * jnp.array(RNG.dirichlet(np.ones(3), size=3))}
    state, changed = rule.init(jnp.ones(3)), []
    for epoch in range(1, 8):
        before, state = state, rule.update(state, statistics, epoch)
        changed.append(not np.array_equal(before, state))
    assert changed == [False] * 4 + [True] + [False] * 2


def test_spectral_weights_of_a_matrix_of_rank_one():
    """Whatever the diagonal and the signs of the decomposition: rescaled outer products."""
    left, right = np.array([4.0, 2, 1, 3]), np.array([1.0, 5, 2, 2])
    errors = np.outer(left, right)  # predicted, true
    # The diagonal is no error; a matrix of rank one without it is one no more, so compare with the power method.
    hollow = errors * (1 - np.eye(4))
    u, v = np.ones(4), np.ones(4)
    for _ in range(500):
        u = hollow @ v
        v = hollow.T @ (u / np.linalg.norm(u))
        u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    outer = np.outer(u, v)
    expected = 0.01 + 2.0 * (outer - outer.min()) / (outer.max() - outer.min())
    np.testing.assert_allclose(confusion.spectral_weights(jnp.asarray(errors.T)), expected, atol=1e-4)


def test_spectral_weights_without_confusions():
    np.testing.assert_array_equal(confusion.spectral_weights(jnp.eye(3)), np.full((3, 3), np.float32(0.01)))


def test_false_positive_share_by_hand():
    matrix = jnp.array([[8, 1, 1], [4, 3, 3], [0, 1, 9]])
    np.testing.assert_allclose(confusion.false_positive_share(matrix), [0.4, 0.2, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(confusion.false_positive_share(jnp.eye(3)), np.zeros(3))


def test_reat_weights_by_hand():
    """E_c of n_c images and a_c predictions, at least a tenth of n_c."""
    images, predicted = np.array([500.0, 100.0, 20.0]), np.array([600, 19, 0])
    beta = (images - 1) / images
    effective = (1 - beta ** np.array([600, 19, 2])) / (1 - beta)
    expected = (1 / effective) / (1 / effective).mean()
    np.testing.assert_allclose(confusion.reat_weights(jnp.asarray(images), jnp.asarray(predicted)), expected, rtol=1e-4)
    # A class of a single image.
    assert np.isfinite(confusion.reat_weights(jnp.array([500.0, 1.0]), jnp.array([400, 3]))).all()


CONFUSED = jnp.array([[8, 1, 1], [4, 3, 3], [0, 1, 9]])


def turned(rule, counts, **statistics):
    state = rule.update(rule.init(counts), statistics, 1)
    return rule.knob_values(state, jnp.asarray(counts, jnp.float32), 0.5)


def test_spectral_keeps_the_rest_of_the_cross_entropy():
    """0.7 of it stays, on natural images where there are such, and the confusions have 0.3."""
    values = turned(confusion.spectral(TRADES, weight=0.3), jnp.full(3, 10), shrunk_confusion=CONFUSED)
    assert set(values) == {"weight_natural", "confusion_weight"}
    np.testing.assert_allclose(values["weight_natural"], np.full(3, 0.7), rtol=1e-6)
    np.testing.assert_allclose(values["confusion_weight"], 0.3 * confusion.spectral_weights(CONFUSED), rtol=1e-6)


def test_fair_tat_goes_for_classes_that_errors_land_in_within_the_radius_of_cfa():
    count, correct = jnp.full(3, 10), jnp.array([8, 3, 9])
    rule = confusion.fair_tat(PGD_AT, radius_base=0.5)
    values = turned(rule, count, confusion=CONFUSED, count=count, correct=correct)
    np.testing.assert_allclose(values["target_logit"], [0.4, 0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(values["radius_scale"], [1.3, 0.8, 1.4], rtol=1e-6)


def test_reat_averages_predictions_and_takes_the_prior_of_counts():
    counts = jnp.array([20, 10, 10])
    values = turned(confusion.reat(PGD_AT), counts, confusion=CONFUSED, count=CONFUSED.sum(1))
    # Those of 30 images stand for those of 40.
    predicted = (np.array([20, 10, 10]) + np.array([12, 5, 13]) * 40 / 30) / 2
    np.testing.assert_allclose(values["weight_robust"], confusion.reat_weights(counts, predicted), rtol=1e-6)
    np.testing.assert_allclose(values["log_prior"], np.log([0.5, 0.25, 0.25]), rtol=1e-6)
