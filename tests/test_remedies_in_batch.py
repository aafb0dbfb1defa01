"""Class weights within a batch against published numbers, another solver, and gradients by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxrobust.remedies import in_batch

MARGINS = np.array([-0.3, -0.45, 0.1, 0.35, 0.2, 0.05, -0.1, -0.2, -0.35, -0.3])


def test_hardest_mixture_against_published_values():
    expected = [0.03408, 0.02804, 0.08012, 0.51475, 0.12098, 0.06854, 0.04782, 0.0398, 0.0318, 0.03408]
    np.testing.assert_allclose(in_batch.hardest_mixture(jnp.asarray(MARGINS), 0.5), expected, atol=2e-5)


@pytest.mark.parametrize("divergence, value, largest", [(0.1, 0.016443, 0.22761), (1.0, 0.244631, 0.72599)])
def test_value_of_the_hardest_mixture(divergence, value, largest):
    mixed = in_batch.hardest_mixture(jnp.asarray(MARGINS), divergence)
    np.testing.assert_allclose(mixed @ MARGINS, value, atol=2e-5)
    np.testing.assert_allclose(mixed.max(), largest, atol=2e-5)


@pytest.mark.parametrize("classes, divergence", [(2, 0.3), (3, 0.05), (6, 2.0)])
def test_hardest_mixture_against_a_general_solver(classes, divergence):
    values = np.random.default_rng(classes).uniform(-1, 1, classes)
    solved = optimize.minimize(
        lambda w: -w @ values,
        np.full(classes, 1 / classes),
        bounds=[(1e-6, 1)] * classes,
        constraints=[
            {"type": "eq", "fun": lambda w: w.sum() - 1},
            {"type": "ineq", "fun": lambda w: divergence + np.log(classes * w).mean()},
        ],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    mixed = in_batch.hardest_mixture(jnp.asarray(values), divergence)
    np.testing.assert_allclose(mixed @ values, -solved.fun, atol=1e-4)
    np.testing.assert_allclose(mixed.sum(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("values", [np.zeros(4), np.full(1000, 0.3), np.array([0.5, 0.5, 0.5, -1.0])])
def test_hardest_mixture_of_ties(values):
    mixed = np.asarray(in_batch.hardest_mixture(jnp.asarray(values), 0.5))
    assert np.isfinite(mixed).all() and mixed.sum() == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(mixed[0], mixed[1], rtol=1e-6)


def test_faal_weighs_by_margins_and_counts_an_absent_class_as_safe():
    statistics = {"count": jnp.array([10, 0, 30]), "margin": jnp.array([5.0, 0.0, -6.0])}
    expected = 3 * in_batch.hardest_mixture(jnp.array([-0.5, -1.0, 0.2]), 0.5)
    np.testing.assert_allclose(in_batch.faal(0.5)(statistics), expected, rtol=1e-6)


def test_the_variance_penalty_has_the_gradient_of_the_variance():
    """mean loss + strength * unbiased variance of the class means, over the classes that the batch has."""
    labels, present = jnp.array([0, 0, 0, 1, 1, 3]), np.array([0, 1, 3])
    losses = jnp.array([0.3, 1.2, 0.7, 2.0, 0.1, 3.0])

    def penalised(losses):
        means = jnp.stack([losses[labels == c].mean() for c in present])
        return losses.mean() + 0.4 * means.var(ddof=1)

    def weighted(losses):
        one_hot = jax.nn.one_hot(labels, 4)
        statistics = {"count": one_hot.sum(0), "loss": jax.lax.stop_gradient(losses) @ one_hot}
        return (in_batch.variance_penalty(0.4)(statistics)[labels] * losses).mean()

    np.testing.assert_allclose(jax.grad(weighted)(losses), jax.grad(penalised)(losses), rtol=1e-5)
    equal = jnp.full(6, 0.7)
    np.testing.assert_allclose(jax.grad(weighted)(equal), np.full(6, 1 / 6), rtol=1e-6)
