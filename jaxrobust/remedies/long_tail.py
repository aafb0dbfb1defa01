"""Remedies of long-tailed learning: knobs computed from class counts, to compensate for small counts.

Counts [C] are floats above 0. They are true numbers of examples or replacements for them, see counts.py.
"""

import math

import jax.numpy as jnp

from jaxrobust.remedies.rule import Rule, Run, by_counts, has_come, mean_one

WEIGHTINGS = ("inverse", "effective_number")
SAMPLINGS = ("balanced", "square_root", "progressive")


def reweight(run: Run, *, weighting: str, beta: float, begin: float) -> Rule:
    """Weights on the losses: `inverse_frequency` or `effective_number`.

    The weights act from the fraction `begin` of the training on: deferred re-weighting (DRW, Cao et al. 2019).
    """

    def values(counts, progress):
        weights = inverse_frequency(counts) if weighting == "inverse" else effective_number(counts, beta)
        return run.weigh(jnp.where(has_come(begin, progress, run), weights, 1.0))

    return by_counts(run.weights, values)


def resample(run: Run, *, sampling: str, begin: float) -> Rule:
    """How often images are drawn: `sampling_by_power` or `progressive_sampling` (Kang et al. 2020).

    It acts from the fraction `begin` of the training on: deferred re-sampling.
    """

    def values(counts, progress):
        if sampling == "progressive":
            often = progressive_sampling(counts, progress)
        else:
            often = sampling_by_power(counts, {"balanced": 0.0, "square_root": 0.5}[sampling])
        return {"sampling": jnp.where(has_come(begin, progress, run), often, 1.0)}

    return by_counts(("sampling",), values)


def focal(run: Run, *, gamma: float) -> Rule:
    """The loss times (1 - p_true)^gamma (Lin et al. 2017), independent of the counts."""
    return Rule(("focusing",), lambda state, counts, progress: {"focusing": jnp.full(len(counts), gamma)})


def ldam(run: Run, *, largest_margin: float) -> Rule:
    """See `ldam_margin`; for a cosine head the margin applies to the cosine, as published."""

    def values(counts, progress):
        return {"margin": run.head_scale * ldam_margin(counts, largest_margin)}

    return by_counts(("margin",), values)


def balanced_softmax(run: Run) -> Rule:
    """Log counts added to the logits (Ren et al. 2020): `logit_adjustment` with tau = 1."""
    return logit_adjustment(run, tau=1.0)


def logit_adjustment(run: Run, *, tau: float) -> Rule:
    """tau times the log prior added to the logits (Menon et al. 2021)."""
    return by_counts(("log_prior",), lambda counts, progress: {"log_prior": log_prior(counts, tau)})


def cdt(run: Run, *, tau: float) -> Rule:
    """Logits divided by (n_max / n_c)^tau, only in training (Ye et al. 2020)."""
    return by_counts(("logit_scale",), lambda counts, progress: {"logit_scale": relative_size(counts, tau)})


def vs(run: Run, *, gamma: float, tau: float) -> Rule:
    """Logits times (n_c / n_max)^gamma, plus tau times the log prior (VS loss, Kini et al. 2021)."""

    def values(counts, progress):
        return {"logit_scale": relative_size(counts, gamma), "log_prior": log_prior(counts, tau)}

    return by_counts(("logit_scale", "log_prior"), values)


def robust_lt(run: Run, *, strength: float) -> Rule:
    """See `radius_by_rarity`. The published method has a warm-up of the radius too: set `attack.radius_warmup`.

    Intended for true counts. With counts that measure difficulty there is a feedback: a larger radius makes a hard
    class harder, which increases its radius again.
    """
    return by_counts(("radius_scale",), lambda counts, progress: {"radius_scale": radius_by_rarity(counts, strength)})


def robal(run: Run, *, margin: float, margin_tau: float, prior_tau: float) -> Rule:
    """Margins and a log prior for a cosine head (RoBal, Wu et al. 2021).

    The cosine of the true class is lowered by margin_tau / s * log(n_c / n_min) + margin before it is multiplied by the
    scale s of the head, so the logit is lowered by s times this amount.
    """

    def values(counts, progress):
        return {
            "margin": margin_tau * jnp.log(counts / counts.min()) + run.head_scale * margin,
            "log_prior": log_prior(counts, prior_tau),
        }

    return by_counts(("margin", "log_prior"), values)


def inverse_frequency(counts):
    """Weights proportional to 1 / n_c, 1 on average over the classes."""
    return mean_one(1.0 / counts)


def effective_number(counts, beta: float):
    """Weights proportional to 1 / E_c, with the effective number E_c = (1 - beta^n_c) / (1 - beta) (Cui et al. 2019).

    1 on average over the classes. beta = 0 gives equal weights; beta -> 1 gives inverse frequency.
    """
    # expm1 avoids the rounding error of 1 - beta^n if beta^n is near 1. At beta = 0 the logarithm is -inf, and E_c = 1.
    log_beta = math.log(beta) if beta else -math.inf
    return mean_one(-1.0 / jnp.expm1(counts * log_beta))


def ldam_margin(counts, largest: float):
    """Margins proportional to n_c^(-1/4), the largest of them `largest` (LDAM, Cao et al. 2019)."""
    margin = counts**-0.25
    return largest * margin / margin.max()


def log_prior(counts, tau: float):
    """tau * log(n_c / N)."""
    return tau * jnp.log(counts / counts.sum())


def relative_size(counts, power: float):
    """(n_c / n_max)^power."""
    return (counts / counts.max()) ** power


def sampling_by_power(counts, power: float):
    """How often to draw an image of the class, relative to the others: n_c^(power - 1).

    A class is then drawn in proportion to n_c^power (Kang et al. 2020): with power 1 all images are drawn equally
    often, with 0 all classes; 1/2 is square-root sampling.
    """
    return mean_one(counts ** (power - 1.0))


def progressive_sampling(counts, progress):
    """From equal frequency of all images at `progress` 0 to equal frequency of all classes at 1 (Kang et al. 2020)."""
    return (1.0 - progress) + progress * counts.mean() / counts


def radius_by_rarity(counts, strength: float):
    """Factors on the radius, (1 - a) + tau * sqrt(log(n_max / n_c)), a = `strength` (RobustLT).

    tau makes their mean over all images 1. With equal counts they are 1.
    """
    rarity = jnp.sqrt(jnp.log(counts.max() / counts))
    mean = (counts * rarity).sum() / counts.sum()
    return jnp.where(mean > 0, (1.0 - strength) + strength * rarity / jnp.where(mean > 0, mean, 1.0), 1.0)


_RULES = reweight, resample, focal, ldam, balanced_softmax, logit_adjustment, cdt, vs, robust_lt, robal
RULES = {rule.__name__: rule for rule in _RULES}
