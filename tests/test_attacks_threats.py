import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrobust.attacks import threats

ORDERS = {"linf": np.inf, "l2": 2}


def keys(n):
    return jax.random.split(jax.random.key(0), n)


@pytest.mark.parametrize("name", threats.NAMES)
def test_size_is_numpys_norm(name):
    perturbation = np.random.default_rng(0).normal(size=(5, 4, 3, 2)).astype(np.float32)
    expected = [np.linalg.norm(p.ravel(), ORDERS[name]) for p in perturbation]
    np.testing.assert_allclose(threats.NORMS[name].size(perturbation), expected, rtol=1e-6)


@pytest.mark.parametrize("name", threats.NAMES)
def test_shrink_is_the_projection(name):
    """It lands in the ball, leaves what is inside, and no point of the ball is nearer."""
    norm, rng = threats.NORMS[name], np.random.default_rng(1)
    outside = rng.normal(size=(200, 3, 1, 1)).astype(np.float32)
    radius = rng.uniform(0.1, 1.0, 200).astype(np.float32)
    shrunk = norm.shrink(outside, radius)
    assert (norm.size(shrunk) <= radius * (1 + 1e-6)).all()
    inside = norm.size(outside) <= radius
    np.testing.assert_array_equal(shrunk[inside], outside[inside])
    others = norm.random(keys(200), (3, 1, 1), radius)
    distance = np.linalg.norm((shrunk - outside).reshape(200, -1), axis=1)
    assert (distance <= np.linalg.norm((others - outside).reshape(200, -1), axis=1) + 1e-6).all()


@pytest.mark.parametrize("name", threats.NAMES)
def test_direction_gains_the_dual_norm(name):
    """Over the unit ball, max <g, d> is the dual norm of g: L1 for linf, L2 for l2."""
    gradient = np.random.default_rng(2).normal(size=(6, 4, 4, 3)).astype(np.float32)
    direction = threats.NORMS[name].direction(gradient)
    np.testing.assert_allclose(threats.NORMS[name].size(direction), 1.0, rtol=1e-6)
    dual = {"linf": 1, "l2": 2}[name]
    expected = [np.linalg.norm(g.ravel(), dual) for g in gradient]
    np.testing.assert_allclose((gradient * direction).sum((1, 2, 3)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", threats.NAMES)
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e25])
def test_direction_of_vanishing_and_huge_gradients_is_finite(name, scale):
    gradient = scale * jnp.ones((1, 8, 8, 3))
    direction = threats.NORMS[name].direction(gradient)
    expected = 0.0 if scale == 0 else 1.0
    np.testing.assert_allclose(threats.NORMS[name].size(direction), expected, rtol=1e-5)


def test_linf_random_is_uniform_in_the_cube():
    sample = threats.NORMS["linf"].random(keys(2000), (2, 1, 1), jnp.full(2000, 0.3)).ravel()
    assert stats.kstest(sample, stats.uniform(-0.3, 0.6).cdf).pvalue > 1e-3


def test_l2_random_is_uniform_in_the_ball():
    """In d dimensions (length / radius)^d is uniform, and so is the angle."""
    sample = threats.NORMS["l2"].random(keys(2000), (3, 1, 1), jnp.full(2000, 0.5)).reshape(2000, 3)
    length = np.linalg.norm(sample, axis=1)
    assert stats.kstest((length / 0.5) ** 3, stats.uniform.cdf).pvalue > 1e-3
    # Archimedes: a coordinate of a uniform direction in three dimensions is uniform.
    assert stats.kstest(sample[:, 0] / length, stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", threats.NAMES)
def test_projection_ends_in_ball_and_box(name):
    rng = np.random.default_rng(3)
    images = rng.uniform(size=(50, 4, 4, 3)).astype(np.float32)
    adversarial = images + rng.normal(size=images.shape).astype(np.float32)
    radius = jnp.full(50, 0.2)
    result = threats.project(threats.NORMS[name], images, adversarial, radius)
    assert result.min() >= 0 and result.max() <= 1
    assert (threats.NORMS[name].size(result - images) <= 0.2 + 1e-6).all()
