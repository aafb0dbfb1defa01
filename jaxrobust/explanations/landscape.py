"""Probes of the landscape around natural images: margins, their gradients, and how far from linear they are.

The margin of an image is f(x) = z_y - z_r, its logit less that of its rival, the class with the largest other logit *at
the image*, which stays the rival around it. So f of a linear model is linear.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import losses, threats
from jaxrobust.explanations.probe import Missing, Probe, by_class

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
STEPS = 10  # of the search for the largest error of linearity
_RELATIVE_STEP = 0.25


class Landscape(NamedTuple):
    """What is known of each image, [B].

    Attributes:
        margin: f, positive where the image is classified correctly.
        probability_margin: probability of the label less the largest other one.
        gradient: dual norm of the gradient of f. To first order the margin falls by at most this per unit of radius.
        curvature: dual norm of the change of the gradient of f along the direction of the attack, over its length; the
            directional finite difference of Moosavi-Dezfooli et al. (2019), arXiv:1811.09716, there of the loss.
        linearity: largest |f(x + d) - f(x) - d grad f(x)| found in the ball, in logits; the measure of Qin et al.
            (2019), arXiv:1907.02610, there of the loss.
    """

    margin: jax.Array
    probability_margin: jax.Array
    gradient: jax.Array
    curvature: jax.Array
    linearity: jax.Array


def landscape(logits_fn, norm: str, images, labels, keys, radius: float) -> Landscape:
    """Look at a model around some images, at the cost of 26 forward passes.

    Args:
        logits_fn: images [B, H, W, C] -> logits [B, K].
        norm: of the threat, one of threats.NAMES.
        images: float32 in [0, 1].
        labels: [B] int.
        keys: [B] PRNG keys.
        radius: of the threat in pixel units.
    """
    ball, dual = threats.NORMS[norm], threats.NORMS[DUAL[norm]].size
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
    step = threats.per_example(radii, images) * ball.direction(-gradient)
    step = threats.project(ball, images, images + step, radii) - images
    _, there = with_gradient(images + step)
    length = ball.size(step)
    curvature = jnp.where(length > 0, dual(there - gradient) / jnp.where(length > 0, length, 1.0), 0.0)

    def climb(carry, _):
        point, largest = carry
        here, slope = with_gradient(point)
        error = here - value - (gradient * (point - images)).sum((1, 2, 3))
        up = threats.per_example(jnp.sign(error), images) * (slope - gradient)
        moved = point + threats.per_example(_RELATIVE_STEP * radii, images) * ball.direction(up)
        return (threats.project(ball, images, moved, radii), jnp.maximum(largest, jnp.abs(error))), None

    start = threats.random_start(ball, keys, images, radii)
    (_, linearity), _ = jax.lax.scan(climb, (start, jnp.zeros_like(value)), length=STEPS + 1)
    return Landscape(value, -losses.softmax_margin(logits, labels), dual(gradient), curvature, linearity)


def radius_estimate(margin, gradient) -> np.ndarray:
    """The smallest radius that breaks each image, to first order, [n]: margin over dual norm, 0 where it is wrong.

    Infinite where there is no gradient. Exact for a linear model, as far as the box [0, 1] lets an attacker go.
    """
    margin, gradient = np.maximum(np.float64(margin), 0.0), np.float64(gradient)
    return np.divide(margin, gradient, out=np.where(margin > 0, np.inf, 0.0), where=gradient > 0)


def _mean(field):
    def measure(subject):
        labels, found = subject.landscape
        return by_class(getattr(found, field), labels, len(subject.class_names))

    return measure


def _in_the_ball(field):
    def measure(subject):
        if subject.radius == 0:
            raise Missing("threat.eps_255 = 0, so there is no ball to look into")
        return _mean(field)(subject)

    return measure


def _median_radius(subject):
    labels, found = subject.landscape
    values = by_class(radius_estimate(found.margin, found.gradient), labels, len(subject.class_names), np.median)
    finite = values[np.isfinite(values)]
    # Larger than all others, which is all that ranks need.
    return np.where(np.isinf(values), 2 * finite.max(initial=0.5), values)


def _probe(name, meaning, sign, measure):
    return Probe(name, meaning, "landscape", "model", sign, measure)


PROBES = (
    _probe("logit_margin", "Mean of the logit of the label less the largest other one.", 1, _mean("margin")),
    _probe(
        "probability_margin",
        "Mean of the probability of the label less the largest other one.",
        1,
        _mean("probability_margin"),
    ),
    _probe(
        "gradient_norm",
        "Mean of the margin's gradient with respect to the image, in the dual of the threat's norm.",
        -1,
        _mean("gradient"),
    ),
    _probe(
        "radius_estimate",
        "Median of the smallest radius that breaks an image, to first order: margin over dual norm of its gradient.",
        1,
        _median_radius,
    ),
    _probe(
        "curvature",
        "Mean change of the margin's gradient over the step of the attack, per unit of its length.",
        -1,
        _in_the_ball("curvature"),
    ),
    _probe(
        "linearity_error",
        "Mean of the margin's largest departure, in the ball, from its linear approximation at the image.",
        -1,
        _in_the_ball("linearity"),
    ),
)
