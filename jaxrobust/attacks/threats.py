"""Norm balls: what an attacker may do to an image.

A perturbation is allowed when its norm is at most the example's radius and the perturbed image stays in [0, 1].
All functions take a batch: images [B, H, W, C] in [0, 1], radius [B] in the same pixel units.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.errors import FieldError, number, one_of

_BISECTIONS = 32  # more than the 24 bits of a float32
_L1_SHARE = 0.05  # of the entries of an image, those that a step in the L1 norm moves


class Norm(NamedTuple):
    """What an attack needs to know about a norm."""

    size: Callable  # perturbation [B, ...] -> its norm [B]
    shrink: Callable  # (perturbation, radius) -> the nearest perturbation in the ball
    # gradient -> the perturbation of norm 1 that is the direction of a step; 0 where the gradient is 0. For linf and l2
    # it raises the loss most to first order; for l1 it is spread over a few entries, see `_l1_direction`.
    direction: Callable
    random: Callable  # (keys [B], shape of one image, radius) -> perturbations drawn uniformly from the ball


def per_example(values: jax.Array, like: jax.Array) -> jax.Array:
    """[B] -> [B, 1, 1, 1], so that it broadcasts over images of the rank of `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def project(norm: Norm, images: jax.Array, adversarial: jax.Array, radius: jax.Array) -> jax.Array:
    """The adversarial image moved into the ball around `images`, then into the box [0, 1]."""
    return jnp.clip(images + norm.shrink(adversarial - images, radius), 0.0, 1.0)


def random_start(norm: Norm, keys: jax.Array, images: jax.Array, radius: jax.Array) -> jax.Array:
    """A point drawn uniformly from each example's ball, clipped to the box."""
    return jnp.clip(images + norm.random(keys, images.shape[1:], radius), 0.0, 1.0)


def at_image(norm: Norm, keys: jax.Array, images: jax.Array, radius: jax.Array) -> jax.Array:
    """The image itself, in the place of a random start."""
    del norm, keys, radius
    return images


def ascend(
    norm: Norm, images: jax.Array, points: jax.Array, gradient: jax.Array, radius: jax.Array, step_size: jax.Array
) -> jax.Array:
    """One ascent step: the points moved by `step_size` [B] along the gradient's direction, then into ball and box."""
    moved = points + per_example(step_size, images) * norm.direction(gradient)
    return project(norm, images, moved, radius)


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
    # Divided by its largest entry first: the squares of a saturated model's gradient underflow in float32.
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


def l1_shrink(perturbation, radius, most=jnp.inf):
    """The nearest perturbation in the L1 ball whose entries are at most `most` in size.

    Each entry p becomes sign(p) * clip(|p| - m, 0, most), with the smallest multiplier m >= 0 that fits the radius
    (Croce & Hein 2021, proposition 2.1, when `most` is the room that the box leaves). m is found by bisection, in a
    fixed number of cheap steps, down to the resolution of float32.
    """
    flat = jnp.abs(perturbation).reshape(len(perturbation), -1)  # sums are many times slower over three short axes
    room = jnp.broadcast_to(most, perturbation.shape).reshape(flat.shape)

    def shrunk(multiplier):
        return jnp.clip(flat - multiplier[:, None], 0.0, room)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        fits = shrunk(middle).sum(1) <= radius
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    low = jnp.zeros_like(radius)
    _, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, flat.max(1).astype(low.dtype)))
    multiplier = jnp.where(shrunk(low).sum(1) <= radius, low, high)
    return jnp.sign(perturbation) * shrunk(multiplier).reshape(perturbation.shape)


def _l1_size(perturbation):
    return jnp.abs(perturbation).sum(axis=tuple(range(1, perturbation.ndim)))


def _l1_direction(gradient):
    # To first order it is best to move only the largest entry. But that entry soon reaches the edge of the box, and
    # then the step gains nothing. So the step is shared by several entries in proportion to their gradients: the
    # projection removes the smallest of them step by step, and an entry at the edge of the box does not stop the rest.
    gradient = gradient / per_example(jnp.maximum(_linf_size(gradient), 1e-30), gradient)
    sizes = jnp.abs(gradient).reshape(len(gradient), -1)
    smallest = jax.lax.top_k(sizes, max(1, round(_L1_SHARE * sizes.shape[1])))[0][:, -1]
    kept = jnp.where(jnp.abs(gradient) >= per_example(smallest, gradient), gradient, 0.0)
    return kept / per_example(jnp.maximum(_l1_size(kept), 1e-12), kept)


def _l1_random(keys, shape, radius):
    # The first d of d + 1 exponential variables, divided by the sum of all, are uniform in the simplex.
    def unit(key):
        size_key, sign_key = jax.random.split(key)
        sizes = jax.random.exponential(size_key, (math.prod(shape) + 1,))
        return (sizes[:-1] / sizes.sum()).reshape(shape) * jax.random.rademacher(sign_key, shape, sizes.dtype)

    unit = jax.vmap(unit)(keys)
    return unit * per_example(radius, unit)


NORMS = {
    "linf": Norm(_linf_size, _linf_shrink, jnp.sign, _linf_random),
    "l2": Norm(_l2_size, _l2_shrink, _l2_direction, _l2_random),
    "l1": Norm(_l1_size, l1_shrink, _l1_direction, _l1_random),
}
NAMES = tuple(NORMS)
SMALLEST = 1e-5  # radius other than 0; one grey level is 0.004
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}  # the dual norm of each


@dataclasses.dataclass(frozen=True)
class Threat:
    """A norm ball around every image, within the box [0, 1].

    Attributes:
        norm: one of `NAMES`.
        eps: the radius in pixel units of [0, 1]; 0: no attack.

    Raises:
        FieldError: names the attribute; the norm is unknown, or the radius negative or in another unit.
    """

    norm: str
    eps: float

    def __post_init__(self):
        one_of("norm", self.norm, NAMES)
        # The dataclass is frozen; the radius is a float whatever number is given.
        object.__setattr__(self, "eps", number("eps", self.eps, 0, 10**6, remedy="give a radius, for example 8/255"))
        if 0 < self.eps < SMALLEST:
            problem = f"is below {SMALLEST:g}, where float32 pixels hardly change"
            raise FieldError("eps", self.eps, problem, "give a radius such as 8/255, or 0 for no attack")
        if self.norm == "linf" and self.eps > 1:
            raise FieldError("eps", self.eps, "is larger than the range of a pixel", f"write {self.eps:g}/255")

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises FieldError if the ball around any image of that shape contains every other image."""
        largest = largest_radius(self.norm, image_shape)
        if self.eps > largest:
            problem = f"is larger than the largest distance of two images in {self.norm}, {largest:.3g}"
            raise FieldError("eps", self.eps, problem, f"write {self.eps:g}/255, for pixels are in [0, 1]")


def Linf(eps: float) -> Threat:
    """Every pixel may change by eps, in pixel units of [0, 1]: the usual `Linf(8 / 255)`.

    >>> Linf(8 / 255).norm
    'linf'
    """
    return Threat("linf", eps)


def L2(eps: float) -> Threat:
    """The Euclidean norm of the perturbation may be eps, in pixel units of [0, 1]: the usual `L2(0.5)`.

    >>> L2(0.5)
    Threat(norm='l2', eps=0.5)
    """
    return Threat("l2", eps)


def L1(eps: float) -> Threat:
    """The sum of the changes of all pixels may be eps, in pixel units of [0, 1]: the usual `L1(12)`.

    >>> L1(12)
    Threat(norm='l1', eps=12.0)
    """
    return Threat("l1", eps)


def largest_radius(norm: str, image_shape: tuple[int, int, int]) -> float:
    """The smallest radius for which the ball around any image contains every other image, in pixel units."""
    dimension = math.prod(image_shape)
    return {"linf": 1.0, "l2": math.sqrt(dimension), "l1": float(dimension)}[norm]
