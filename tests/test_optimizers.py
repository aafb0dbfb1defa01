import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.training import optimizers


def rates(name, steps=100, **options):
    schedule = optimizers.schedule(name, learning_rate=0.1, total_steps=steps, **options)
    return np.array([schedule(step) for step in range(steps)])


def test_piecewise_by_hand():
    np.testing.assert_allclose(rates("piecewise", milestones=(0.5, 0.75)), np.repeat([0.1, 0.01, 0.001], [50, 25, 25]))


def test_cosine_by_hand():
    np.testing.assert_allclose(rates("cosine"), 0.05 * (1 + np.cos(np.pi * np.arange(100) / 100)), atol=1e-7)


def test_one_cycle_rises_to_its_peak_and_falls_to_zero():
    expected = np.interp(np.arange(100), [0, 30, 100], [0, 0.1, 0])
    np.testing.assert_allclose(rates("one_cycle", warmup=0.3), expected, atol=1e-7)


def test_warmup_leaves_the_milestones_where_they_are():
    expected = np.concatenate([np.arange(10) / 100, np.repeat([0.1, 0.01], [40, 50])])
    np.testing.assert_allclose(rates("piecewise", warmup=0.1, milestones=(0.5,)), expected, atol=1e-7)


def test_milestones_that_fall_on_one_step_all_count():
    np.testing.assert_allclose(rates("piecewise", 4, milestones=(0.5, 0.55))[2:], 0.001)


@pytest.mark.parametrize("name", optimizers.SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_runs_have_finite_rates(name, steps):
    assert np.isfinite(rates(name, steps, warmup=0.1)).all()


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    """g += wd p; m = mu m + g; p -= lr (g + mu m if nesterov else m), as the PyTorch documentation defines SGD."""
    rng = np.random.default_rng(0)
    p, m, mu, wd = rng.normal(size=5), np.zeros(5), 0.9, 5e-2
    schedule = optimizers.schedule("piecewise", learning_rate=0.1, total_steps=6, milestones=(0.5,))
    optimizer = optimizers.create("sgd", schedule, momentum=mu, nesterov=nesterov, weight_decay=wd)
    params = jnp.asarray(p, jnp.float32)
    state = optimizer.init(params)
    for step in range(6):
        gradient = rng.normal(size=5)
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = params + updates
        gradient = gradient + wd * p
        m = mu * m + gradient
        p = p - (0.1 if step < 3 else 0.01) * (gradient + mu * m if nesterov else m)
    np.testing.assert_allclose(params, p, rtol=1e-5)


def test_adamw_decays_decoupled_from_the_gradient():
    optimizer = optimizers.create(
        "adamw", optimizers.schedule("constant", learning_rate=0.1, total_steps=1), weight_decay=0.2
    )
    params = jnp.array([2.0, -4.0])
    updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
    np.testing.assert_allclose(updates, -0.1 * 0.2 * params, rtol=1e-6)


def test_clipping_bounds_the_global_norm():
    schedule = optimizers.schedule("constant", learning_rate=1.0, total_steps=1)
    optimizer = optimizers.create("sgd", schedule, momentum=0.0, clip_norm=1.0)
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -g / 5, rtol=1e-6), updates, gradient)
