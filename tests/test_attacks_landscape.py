"""The landscape of linear models, where everything is known, and of one that bends by a known amount."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import landscape, threats

SHAPE, CLASSES, COUNT, RADIUS = (3, 4, 2), 4, 24, 0.05
RNG = np.random.default_rng(1)
KERNEL = RNG.normal(size=(24, CLASSES)).astype(np.float32)
IMAGES = jnp.asarray(RNG.uniform(0.2, 0.8, (COUNT, *SHAPE)), jnp.float32)
LABELS = np.argmax(np.asarray(IMAGES).reshape(COUNT, -1) @ KERNEL, 1).astype(np.int32)
LABELS[:3] = (LABELS[:3] + 1) % CLASSES  # wrong
KEYS = jax.random.split(jax.random.key(0), COUNT)
DUAL_SIZES = {
    "linf": lambda w: np.abs(w).sum(0),
    "l2": lambda w: np.sqrt((w**2).sum(0)),
    "l1": lambda w: np.abs(w).max(0),
}


def linear(images):
    return images.reshape(len(images), -1) @ KERNEL


@pytest.mark.parametrize("norm", threats.NAMES)
def test_a_linear_model(norm):
    found = landscape.landscape(linear, norm, IMAGES, LABELS, KEYS, RADIUS)
    logits = np.asarray(linear(IMAGES), np.float64)
    rows = np.arange(COUNT)
    others = np.where(np.eye(CLASSES, dtype=bool)[LABELS], -np.inf, logits)
    rival = others.argmax(1)
    margin, difference = logits[rows, LABELS] - others.max(1), KERNEL[:, LABELS] - KERNEL[:, rival]
    np.testing.assert_allclose(found.margin, margin, atol=1e-5)
    np.testing.assert_allclose(found.gradient, DUAL_SIZES[norm](difference), rtol=1e-5)
    np.testing.assert_allclose(found.curvature, 0, atol=1e-4)
    np.testing.assert_allclose(found.linearity, 0, atol=1e-5)


def test_a_model_that_bends():
    """f(x) = x'x: its gradient changes by 2 d over a step d, its error of linearity is |d|^2."""

    def quadratic(images):
        value = jnp.square(images).sum((1, 2, 3))
        return jnp.stack([value, jnp.zeros_like(value)], 1)

    found = landscape.landscape(quadratic, "l2", IMAGES, jnp.zeros(COUNT, jnp.int32), KEYS, RADIUS)
    np.testing.assert_allclose(found.curvature, 2, rtol=1e-3)
    np.testing.assert_allclose(found.linearity, RADIUS**2, rtol=0.02)
    size = 24 ** (1 / 2)
    found = landscape.landscape(quadratic, "linf", IMAGES, jnp.zeros(COUNT, jnp.int32), KEYS, RADIUS)
    np.testing.assert_allclose(found.curvature, 2 * size**2, rtol=1e-3)  # |2 d|_1 / |d|_inf
    np.testing.assert_allclose(found.linearity, (size * RADIUS) ** 2, rtol=0.02)


def test_classes_renamed_and_a_radius_of_zero():
    order = np.array([2, 0, 3, 1])
    found = landscape.landscape(linear, "l2", IMAGES, LABELS, KEYS, RADIUS)

    def renamed(images):
        return linear(images)[:, np.argsort(order)]

    again = landscape.landscape(renamed, "l2", IMAGES, order[LABELS].astype(np.int32), KEYS, RADIUS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, again)
    still = landscape.landscape(linear, "l2", IMAGES, LABELS, KEYS, 0.0)
    assert not np.any(still.curvature) and np.allclose(still.linearity, 0, atol=1e-6)
