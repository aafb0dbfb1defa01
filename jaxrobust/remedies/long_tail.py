"""Rules for long-tailed data: from counts of examples to the knobs that make up for them.

Each takes counts [C], floats above 0, and gives one knob [C]. What the counts are is the business of counts.py.
"""

import jax.numpy as jnp


def inverse_frequency(counts):
    """Weights proportional to 1 / n_c, 1 on average over the classes."""
    return _mean_one(1.0 / counts)


def effective_number(counts, beta: float):
    """Weights proportional to 1 / E_c, with the effective number E_c = (1 - beta^n_c) / (1 - beta) (Cui et al. 2019).

    1 on average over the classes. beta = 0 weights all alike; beta -> 1 by inverse frequency.
    """
    # expm1, since 1 - beta^n is lost to rounding where beta^n is near 1. At beta = 0 the logarithm is -inf, and E_c 1.
    return _mean_one(-1.0 / jnp.expm1(counts * jnp.log(jnp.float32(beta))))


def ldam_margin(counts, largest: float):
    """Margins proportional to n_c^(-1/4), the largest of them `largest` (LDAM, Cao et al. 2019)."""
    margin = counts**-0.25
    return largest * margin / margin.max()


def log_prior(counts, tau: float):
    """tau * log(n_c / N) (logit adjustment, Menon et al. 2021); tau = 1 is balanced softmax (Ren et al. 2020)."""
    return tau * jnp.log(counts / counts.sum())


def sampling(counts, power: float):
    """How often to draw an image of the class, relative to the others: n_c^(power - 1).

    A class is then drawn in proportion to n_c^power (Kang et al. 2020): 1 draws every image alike, 0 every class, and
    1/2 is square-root sampling.
    """
    return _mean_one(counts ** (power - 1.0))


def progressive_sampling(counts, progress):
    """From every image alike to every class alike as `progress` goes from 0 to 1 (Kang et al. 2020)."""
    return (1.0 - progress) + progress * counts.mean() / counts


def radius_by_rarity(counts, strength: float):
    """Factors on the radius, (1 - a) + tau * sqrt(log(n_max / n_c)), a = `strength` (RobustLT).

    tau makes their mean over all images 1. With equal counts they are 1.
    """
    rarity = jnp.sqrt(jnp.log(counts.max() / counts))
    mean = (counts * rarity).sum() / counts.sum()
    return jnp.where(mean > 0, (1.0 - strength) + strength * rarity / jnp.where(mean > 0, mean, 1.0), 1.0)


def _mean_one(values):
    return values * (len(values) / values.sum())
