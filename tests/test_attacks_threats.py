import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Pgd

ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}


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


@pytest.mark.parametrize("name", ["linf", "l2"])
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


def test_l1_direction_is_shared_by_the_largest_twentieth():
    gradient = np.random.default_rng(2).normal(size=(6, 10, 10, 5)).astype(np.float32)
    direction = np.asarray(threats.NORMS["l1"].direction(gradient)).reshape(6, -1)
    flat = gradient.reshape(6, -1)
    largest = np.argsort(-np.abs(flat), axis=1)[:, :25]
    expected = np.zeros_like(flat)
    values = np.take_along_axis(flat, largest, axis=1)
    np.put_along_axis(expected, largest, values / np.abs(values).sum(1, keepdims=True), axis=1)
    np.testing.assert_allclose(direction, expected, rtol=1e-5)


def test_l1_direction_of_a_small_image_is_its_largest_entry():
    """Which gains the dual norm, the largest entry of the gradient in size."""
    gradient = np.random.default_rng(2).normal(size=(6, 3, 3, 2)).astype(np.float32)
    direction = threats.NORMS["l1"].direction(gradient)
    np.testing.assert_allclose((gradient * direction).sum((1, 2, 3)), np.abs(gradient).max((1, 2, 3)), rtol=1e-6)


def test_l1_shrink_stops_at_the_most_of_each_entry():
    """By hand: 0.9, 0.6 and 0.1 cut at 0.3, 1 and 1 fit the radius 0.7 less 0.1, with the multiplier 0.2."""
    perturbation = jnp.array([0.9, -0.6, 0.1]).reshape(1, 3, 1, 1)
    most = jnp.array([0.3, 1.0, 1.0]).reshape(1, 3, 1, 1)
    result = threats.l1_shrink(perturbation, jnp.array([0.7]), most).ravel()
    np.testing.assert_allclose(result, [0.3, -0.4, 0.0], atol=1e-6)
    enough = threats.l1_shrink(perturbation, jnp.array([1.5]), most).ravel()
    np.testing.assert_array_equal(enough, np.float32([0.3, -0.6, 0.1]))


def test_pgd_in_l1_comes_near_the_worst_case_of_a_linear_model():
    """Which puts all of the radius on the entries of largest weight, as far as the box lets it."""
    rng = np.random.default_rng(6)
    weights = rng.normal(size=400).astype(np.float32)
    images = rng.uniform(size=(20, 20, 20, 1)).astype(np.float32)
    radius = jnp.full(20, 2.5)
    room = np.where(weights > 0, 1 - images.reshape(20, -1), images.reshape(20, -1))
    order = np.argsort(-np.abs(weights))
    spent = np.diff(np.minimum(np.cumsum(room[:, order], axis=1), 2.5), prepend=0, axis=1)
    best = (spent * np.abs(weights[order])[None]).sum(1)

    def logits_fn(x):
        score = x.reshape(len(x), -1) @ weights
        return jnp.stack([score, -score], axis=1)

    attack = Pgd(threats.NORMS["l1"], steps=20)
    labels = jnp.ones(20, jnp.int32)
    adversarial = attack(logits_fn, losses.cross_entropy, images, labels, keys(20), radius, radius / 4)
    assert (threats.NORMS["l1"].size(adversarial - images) <= 2.5 + 1e-5).all()
    gain = (adversarial - images).reshape(20, -1) @ weights
    assert (gain <= best + 1e-4).all()
    assert (gain >= 0.85 * best).all(), (gain / best).round(2)


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


def test_l1_random_is_uniform_in_the_ball():
    """In d dimensions (size / radius)^d is uniform, all signs are equally likely, and all shares of the entries."""
    sample = threats.NORMS["l1"].random(keys(2000), (3, 1, 1), jnp.full(2000, 0.5)).reshape(2000, 3)
    size = np.abs(sample).sum(1)
    assert stats.kstest((size / 0.5) ** 3, stats.uniform.cdf).pvalue > 1e-3
    # On the simplex of three entries one entry's share exceeds s with probability (1 - s)^2.
    assert stats.kstest((1 - np.abs(sample[:, 0]) / size) ** 2, stats.uniform.cdf).pvalue > 1e-3
    octant = (np.asarray(sample > 0) * [1, 2, 4]).sum(1)
    assert stats.chisquare(np.bincount(octant, minlength=8)).pvalue > 1e-3


@pytest.mark.parametrize("name", threats.NAMES)
def test_projection_ends_in_ball_and_box(name):
    rng = np.random.default_rng(3)
    images = rng.uniform(size=(50, 4, 4, 3)).astype(np.float32)
    adversarial = images + rng.normal(size=images.shape).astype(np.float32)
    radius = jnp.full(50, 0.2)
    result = threats.project(threats.NORMS[name], images, adversarial, radius)
    assert result.min() >= 0 and result.max() <= 1
    assert (threats.NORMS[name].size(result - images) <= 0.2 + 1e-6).all()
