"""Probes of the landscape around natural images, see attacks/landscape.py."""

import numpy as np

from jaxrobust.explanations.probe import Missing, by_class, of_family

_probe = of_family("landscape", "model")


def radius_estimate(margin, gradient) -> np.ndarray:
    """First-order estimate [n] of the smallest radius that breaks each image: margin / dual norm of its gradient.

    0 for a misclassified image, infinite where the gradient is 0. Exact for a linear model if the box [0, 1] does not
    limit the attacker.
    """
    margin, gradient = np.maximum(np.float64(margin), 0.0), np.float64(gradient)
    return np.divide(margin, gradient, out=np.where(margin > 0, np.inf, 0.0), where=gradient > 0)


def _mean(field):
    def measure(inputs):
        labels, found = inputs.landscape
        return by_class(getattr(found, field), labels, len(inputs.class_names))

    return measure


def _in_the_ball(field):
    def measure(inputs):
        if inputs.radius == 0:
            raise Missing("threat.eps_255 = 0, so there is no ball to search")
        return _mean(field)(inputs)

    return measure


def _median_radius(inputs):
    labels, found = inputs.landscape
    values = by_class(radius_estimate(found.margin, found.gradient), labels, len(inputs.class_names), np.median)
    finite = values[np.isfinite(values)]
    # A value larger than all others: only ranks are used.
    return np.where(np.isinf(values), 2 * finite.max(initial=0.5), values)


PROBES = (
    _probe("logit_margin", 1, _mean("margin"),
           "Mean of the logit of the label minus the largest other one."),
    _probe("probability_margin", 1, _mean("probability_margin"),
           "Mean of the probability of the label minus the largest other one."),
    _probe("gradient_norm", -1, _mean("gradient"),
           "Mean of the margin's gradient with respect to the image, in the dual of the threat's norm."),
    _probe("radius_estimate", 1, _median_radius,
           "Median estimate, to first order, of the smallest radius that breaks an image: margin / dual norm of "
           "gradient."),
    _probe("curvature", -1, _in_the_ball("curvature"),
           "Mean change of the margin's gradient over the step of the attack, per unit of its length."),
    _probe("linearity_error", -1, _in_the_ball("linearity"),
           "Mean of the margin's largest deviation, in the ball, from its linear approximation at the image."),
)  # fmt: skip
