"""Norm balls: what an attacker may do to an image.

A perturbation is allowed when its norm is at most the example's radius and the perturbed image stays in [0, 1].
All functions take a batch: images [B, H, W, C] in [0, 1], radius [B] in the same pixel units.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Norm(NamedTuple):
    """What an attack needs to know of a norm.

    Attributes:
        size: perturbation [B, ...] -> its norm [B].
        shrink: (perturbation, radius) -> the nearest perturbation in the ball.
        direction: gradient -> the perturbation of norm 1 that gains most to first order; 0 where the gradient is 0.
        random: (keys [B], shape of one image, radius) -> perturbations drawn uniformly from the ball.
    """

    size: Callable
    shrink: Callable
    direction: Callable
    random: Callable


def per_example(values, like):
    """[B] -> [B, 1, 1, 1], so that it broadcasts over images of the rank of `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def project(norm: Norm, images, adversarial, radius):
    """The adversarial image moved into the ball around `images`, then into the box [0, 1]."""
    return jnp.clip(images + norm.shrink(adversarial - images, radius), 0.0, 1.0)


def random_start(norm: Norm, keys, images, radius):
    """A point drawn uniformly from each example's ball, clipped to the box."""
    return jnp.clip(images + norm.random(keys, images.shape[1:], radius), 0.0, 1.0)


def _linf_size(perturbation):
    return jnp.abs(perturbation).max(axis=tuple(range(1, perturbation.ndim)))


def _linf_shrink(perturbation, radius):
    radius = per_example(radius, perturbation)
    return jnp.clip(perturbation, -radius, radius)


def _linf_random(keys, shape, radius):
    unit = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))(keys)
    return unit * per_example(radius, unit)


def _l2_size(perturbation):
    return jnp.sqrt(jnp.square(perturbation).sum(axis=tuple(range(1, perturbation.ndim))))


def _l2_shrink(perturbation, radius):
    factor = jnp.minimum(1.0, radius / jnp.maximum(_l2_size(perturbation), 1e-12))
    return perturbation * per_example(factor, perturbation)


def _l2_direction(gradient):
    # Scaled by its largest entry first: the squares of a saturated model's gradient underflow in float32.
    gradient = gradient / per_example(jnp.maximum(_linf_size(gradient), 1e-30), gradient)
    return gradient / per_example(jnp.maximum(_l2_size(gradient), 1e-12), gradient)


def _l2_random(keys, shape, radius):
    dimension = math.prod(shape)

    def unit(key):
        direction_key, length_key = jax.random.split(key)
        direction = _l2_direction(jax.random.normal(direction_key, (1, *shape)))[0]
        return direction * jax.random.uniform(length_key) ** (1.0 / dimension)

    unit = jax.vmap(unit)(keys)
    return unit * per_example(radius, unit)


NORMS = {
    "linf": Norm(_linf_size, _linf_shrink, jnp.sign, _linf_random),
    "l2": Norm(_l2_size, _l2_shrink, _l2_direction, _l2_random),
}
NAMES = tuple(NORMS)
