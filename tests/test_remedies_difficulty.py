"""Rules for hard classes against published numbers, values computed by hand, and invariants."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.remedies import difficulty
from jaxrobust.remedies.rule import Run

PGD_AT = Run(num_epochs=10, first_epoch=0, knobs=("weight_robust",), beta=0.0)
TRADES = Run(num_epochs=10, first_epoch=0, knobs=("weight_natural", "weight_robust"), beta=6.0)
EQUAL = jnp.full(3, 100)
FRL = {
    "variant": "both",
    "natural_tolerance": 0.1,
    "boundary_tolerance": 0.1,
    "weight_rate": 0.05,
    "radius_rate": 0.2,
    "limit": 0.5,
}
CFA = {
    "radius_base": 0.5,
    "beta_base": 0.5,
    "average": False,
    "average_begin": 0.0,
    "average_threshold": 0.2,
    "average_decay": 0.85,
}


def seen(correct, natural=None, **others):
    of = {"count": EQUAL, "correct": jnp.array(correct)} | others
    return of if natural is None else of | {"natural_correct": jnp.array(natural)}


def after(rule, *epochs, counts=EQUAL):
    state = rule.init(counts)
    for statistics in epochs:
        state = rule.update(state, statistics, 1)
    return rule.knob_values(state, jnp.asarray(counts, jnp.float32), 0.5)


def test_frl_by_hand():
    """One epoch: natural errors .1, .2, .3, boundary errors .1, .2, .3, averages .2 and .2."""
    tolerances = {"natural_tolerance": 0.05, "boundary_tolerance": 0.05}
    natural, boundary = difficulty.frl_violations(seen([80, 60, 40], [90, 80, 70]), *tolerances.values())
    np.testing.assert_allclose(natural, [-0.15, -0.05, 0.05], atol=1e-6)
    np.testing.assert_allclose(boundary, [-0.15, -0.05, 0.05], atol=1e-6)
    values = after(difficulty.frl(TRADES, **FRL | tolerances), seen([80, 60, 40], [90, 80, 70]))
    l0, l1 = 0.05 * 0.05, 2 * 0.05 * 0.05
    np.testing.assert_allclose(values["weight_natural"], [1 - l0, 1 - l0, 1 + 2 * l0], rtol=1e-5)
    np.testing.assert_allclose(values["weight_robust"], [1 - l1, 1 - l1, 1 + 2 * l1], rtol=1e-5)
    log_radius = 0.2 * np.array([-0.15, -0.05, 0.05])
    np.testing.assert_allclose(values["radius_scale"], np.clip(np.exp(2 * log_radius), 0.98, 2.5), rtol=1e-5)


def test_the_radii_of_frl_go_on_from_epoch_to_epoch():
    epochs = [seen([80, 60, 40], [90, 80, 70])] * 3
    values = after(difficulty.frl(TRADES, **FRL | {"boundary_tolerance": 0.05}), *epochs)
    np.testing.assert_allclose(values["radius_scale"][2], np.exp(2 * 3 * 0.2 * 0.05), rtol=1e-5)


def test_frl_within_the_tolerances_is_plain_training():
    values = after(difficulty.frl(TRADES, **FRL), *[seen([60, 62, 58], [80, 81, 79])] * 5)
    np.testing.assert_allclose(values["weight_natural"], np.ones(3))
    np.testing.assert_allclose(values["weight_robust"], np.ones(3))


@pytest.mark.parametrize("run", [TRADES, PGD_AT])
def test_weights_of_frl_stay_positive_and_one_on_average(run):
    """However long a class is violated: at least 1 - limit."""
    values = after(difficulty.frl(run, **FRL | {"weight_rate": 1.0}), *[seen([90, 70, 5], [99, 90, 60])] * 20)
    for knob in run.weights:
        np.testing.assert_allclose(values[knob].mean(), 1.0, rtol=1e-6)
        assert values[knob].min() >= 0.5 - 1e-6 and values[knob].argmax() == 2
    assert values["radius_scale"].max() <= 2.5


@pytest.mark.parametrize("variant, turned", [("reweight", {"weight_natural", "weight_robust"})])
def test_variants_of_frl(variant, turned):
    rule = difficulty.frl(TRADES, **FRL | {"variant": variant})
    assert set(rule.knobs) == turned == set(after(rule, seen([90, 50, 5], [99, 90, 40])))
    remargin = after(difficulty.frl(TRADES, **FRL | {"variant": "remargin"}), seen([90, 50, 5], [99, 90, 40]))
    np.testing.assert_array_equal(remargin["weight_robust"], np.ones(3))
    assert remargin["radius_scale"][1] > remargin["radius_scale"][0]


def test_cfa_by_hand():
    t = np.array([0.8, 0.4, 0.2])
    values = after(difficulty.cfa(PGD_AT, **CFA), seen([80, 40, 20]))
    assert set(values) == {"radius_scale"}
    np.testing.assert_allclose(values["radius_scale"], 0.5 + t, rtol=1e-6)
    values = after(difficulty.cfa(TRADES, **CFA), seen([80, 40, 20]))
    np.testing.assert_allclose(values["beta_scale"], 0.5 + t, rtol=1e-6)
    for knob in ("weight_natural", "weight_robust"):
        np.testing.assert_allclose(values[knob], 7 / (1 + 6 * (0.5 + t)), rtol=1e-6)


def test_averaging_of_cfa_waits_for_the_weakest_class():
    rule = difficulty.cfa(PGD_AT, **CFA | {"average": True})
    state, decays = rule.init(EQUAL), []
    for weakest in (10, 30, 10, 25):
        decay, state = rule.average(state, seen([80, 50, weakest]))
        decays.append(float(decay))
    # Raw weights, the first average, kept, averaged.
    np.testing.assert_allclose(decays, [0.0, 0.0, 1.0, 0.85])


def test_averaging_of_cfa_may_begin_later():
    rule = difficulty.cfa(PGD_AT, **CFA | {"average": True, "average_begin": 0.2})
    state, decays = rule.init(EQUAL), []
    for epoch in (1, 2, 3):
        state = rule.update(state, seen([80, 50, 30]), epoch)
        decay, state = rule.average(state, seen([80, 50, 30]))
        decays.append(float(decay))
    # Raw weights after the first of ten epochs, whatever the classes do; the first average; averaged.
    np.testing.assert_allclose(decays, [0.0, 0.0, 0.85])
    assert not rule.average(rule.init(EQUAL), seen([80, 50, 30]))[1]["averaged"]


def test_wat_against_the_published_rule():
    rule = difficulty.wat(TRADES, eta=0.1)
    losses = np.array([[2.0, 1.0, 1.5], [1.8, 1.0, 1.2]])
    total = np.append(losses.sum(0), losses.mean(1).sum())
    arms = difficulty.hedge(jnp.asarray(total), 0.1)
    np.testing.assert_allclose(3 * arms, [0.82441, 0.68861, 0.73854, 0.74845], atol=1e-5)
    np.testing.assert_allclose(arms.sum(), 1.0, rtol=1e-6)
    values = after(rule, *[seen([50, 50, 50], loss=jnp.asarray(100 * row)) for row in losses])
    np.testing.assert_allclose(values["weight_robust"], 3 * arms[:-1] + arms[-1], rtol=1e-5)
    assert values["weight_robust"].mean() == pytest.approx(1)


def test_wat_begins_as_plain_training():
    """Of ten classes and no losses: the published code multiplies every loss by 20 / 11."""
    np.testing.assert_allclose(difficulty.hedge(jnp.zeros(11), 0.1), np.full(11, 1 / 11), rtol=1e-6)
    weights = after(difficulty.wat(TRADES, eta=0.1), counts=jnp.full(10, 100))["weight_natural"]
    np.testing.assert_allclose(weights, np.ones(10), rtol=1e-6)


def test_fair_ard_against_the_published_rule():
    kappa = jnp.array([7, 8.5, 5, 3.5, 4, 5, 6, 7, 7.5, 8])
    scaled = [0.6003, 0.4071, 1.1766, 2.4012, 1.8384, 1.1766, 0.8171, 0.6003, 0.5229, 0.4596]
    weights = difficulty.fair_ard_weights(20 * kappa, jnp.full(10, 20))
    np.testing.assert_allclose(weights, np.clip(scaled, 5 / 6, 5 / 2), atol=2e-4)
    # A class without images is none that withstands nothing.
    without = difficulty.fair_ard_weights(jnp.append(20 * kappa, 0), jnp.append(jnp.full(10, 20), 0))
    np.testing.assert_allclose(without, np.append(weights, 1.0), rtol=1e-6)


def test_cfol_draws_what_is_broken():
    rule = difficulty.cfol(PGD_AT, gamma=0.5, eta=0.002)
    counts = jnp.array([400, 200, 100])
    # Before anything is known, every class alike, however many images it has.
    start = after(rule, counts=counts)["sampling"]
    np.testing.assert_allclose(start * counts / (start * counts).sum(), np.full(3, 1 / 3), rtol=1e-5)
    drawn = {"count": jnp.array([200, 300, 500]), "correct": jnp.array([180, 150, 100])}
    scores = 0.002 * np.array([20 / 0.2, 150 / 0.3, 400 / 0.5]) * 700 / 1000  # of 1000 images for 700
    p = 0.5 / 3 + 0.5 * np.exp(scores) / np.exp(scores).sum()
    sampling = after(rule, drawn, counts=counts)["sampling"]
    np.testing.assert_allclose(sampling * counts / (sampling * counts).sum(), p, rtol=1e-5)
