"""The landscape around natural images: margins, their gradients, and their deviation from linearity.

The margin of an image is f(x) = z_y - z_r: the logit of the label minus that of the rival. The rival is the class with
the largest other logit *at the natural image*; it does not change at the points around. So f is linear if the model is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks import losses, threats

STEPS = 10  # of the search for the largest deviation from linearity
_RELATIVE_STEP = 0.25


class Landscape(NamedTuple):
    """The measurements at each image, [B]."""

    margin: jax.Array  # f, positive where the image is classified correctly
    probability_margin: jax.Array  # probability of the label minus the largest other one
    # dual norm of the gradient of f. To first order the margin falls by at most this per unit of radius.
    gradient: jax.Array
    # dual norm of the change of the gradient of f along the direction of the attack, over its length; the directional
    # finite difference of Moosavi-Dezfooli et al. (2019), arXiv:1811.09716, who apply it to the loss.
    curvature: jax.Array
    # largest |f(x + d) - f(x) - d grad f(x)| found in the ball, in logits; the measure of Qin et al. (2019),
    # arXiv:1907.02610, who apply it to the loss.
    linearity: jax.Array


def landscape(logits_fn, norm: str, images, labels, keys, radius: float) -> Landscape:
    """The landscape of a model around images, in the norm and at the radius of a threat; costs 26 forward passes."""
    ball, dual = threats.NORMS[norm], threats.NORMS[threats.DUAL[norm]].size
    radii = jnp.full(len(labels), radius, jnp.float32)
    logits = logits_fn(images)
    others = jnp.where(losses.is_class(logits, labels), -jnp.inf, logits)
    rival = jax.lax.stop_gradient(others.argmax(-1))

    def margin(images):
        return -losses.targeted_margin(logits_fn(images), labels, rival)

    def with_gradient(images):
        values, pullback = jax.vjp(margin, images)
        return values, pullback(jnp.ones_like(values))[0]

    value, gradient = with_gradient(images)
    step = threats.ascend(ball, images, images, -gradient, radii, radii) - images
    _, there = with_gradient(images + step)
    length = ball.size(step)
    curvature = jnp.where(length > 0, dual(there - gradient) / jnp.where(length > 0, length, 1.0), 0.0)

    def climb(carry, _):
        point, largest = carry
        here, slope = with_gradient(point)
        error = here - value - (gradient * (point - images)).sum((1, 2, 3))
        up = threats.per_example(jnp.sign(error), images) * (slope - gradient)
        moved = threats.ascend(ball, images, point, up, radii, _RELATIVE_STEP * radii)
        return (moved, jnp.maximum(largest, jnp.abs(error))), None

    start = threats.random_start(ball, keys, images, radii)
    (_, linearity), _ = jax.lax.scan(climb, (start, jnp.zeros_like(value)), length=STEPS + 1)
    return Landscape(value, -losses.softmax_margin(logits, labels), dual(gradient), curvature, linearity)
