"""Class weights from the current batch: functions of its class statistics, computed in every step.

    weights(statistics) -> [C], factors on the losses

`statistics` are those of training/class_statistics.py over the whole batch, on all devices; nothing is differentiated
through them.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

STATISTICS = ("count", "loss", "margin")
_BISECTIONS = 50


def variance_penalty(strength: float) -> Callable:
    """Weights under which the mean loss has the gradient of mean loss + `strength` * variance (Ma et al. 2022).

    The variance is the unbiased one of the mean losses m_c of the K classes in the batch of B. Its gradient is
    sum_c 2 (m_c - mean m) / (K - 1) times the gradient of m_c, so the weight of an image of class c is
    1 + 2 strength B (m_c - mean m) / ((K - 1) n_c). Weights may be negative: they reproduce the exact gradient.
    """

    def weights(statistics):
        count = statistics["count"]
        present = count > 0
        mean_loss = _mean(statistics["loss"], count)
        classes = present.sum()
        centred = jnp.where(present, mean_loss - mean_loss.sum() / classes, 0.0)
        pull = 2 * strength * count.sum() * centred / (jnp.maximum(classes - 1, 1) * jnp.maximum(count, 1))
        return 1 + pull

    return weights


def faal(divergence: float) -> Callable:
    """C times the weights of `hardest_mixture` of the classes' mean softmax margins (FAAL, Zhang et al. 2024).

    The margin is the largest wrong probability minus the true one; a class without images in the batch has margin -1.
    """

    def weights(statistics):
        count = statistics["count"]
        margins = jnp.where(count > 0, -_mean(statistics["margin"], count), -1.0)
        return len(count) * hardest_mixture(margins, divergence)

    return weights


def hardest_mixture(values, divergence: float):
    """The w on the simplex that maximises sum_c w_c v_c subject to KL(uniform || w) <= `divergence`.

    w_c is proportional to 1 / (mu - v_c). mu is larger than all values and such that the KL divergence equals
    `divergence`; it is found by bisection over log(mu - max v).

    Args:
        values: [C].

    Returns:
        w [C]; uniform where all values are equal.
    """
    below = values.max() - values
    spread = jnp.maximum(below.max(), 1e-12)

    def weights_at(log_gap):
        inverse = 1.0 / (jnp.exp(log_gap) + below / spread)
        return inverse / inverse.sum()

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        far = -jnp.log(len(values) * weights_at(middle)).mean() > divergence
        return jnp.where(far, middle, low), jnp.where(far, high, middle)

    # The divergence falls as the gap grows. It is almost 0 at the upper end; the lower end is near the smallest float.
    bracket = jnp.float32(-80.0), jnp.float32(20.0)
    low, high = lax.fori_loop(0, _BISECTIONS, halve, bracket)
    mixed = weights_at((low + high) / 2)
    return jnp.where(below.max() > 0, mixed, 1.0 / len(values))


def _mean(sums, count):
    return jnp.where(count > 0, sums / jnp.maximum(count, 1), 0.0)
