"""Remedies after training: from a classifier's head to another one, the features left as they are.

A head is linear, logits h W + b, or cosine (models/layers.py), of the same arrays. What a function here needs to know
of the classes, such as counts or accuracies, are arrays [C] of floats; none is told the examples.

    tau_norm            divide the weights of each class by a power of their norm; tau = 1 is `head_norm`
    scaled              factors on the logits of each class, as LWS learns them
    nearest_mean        the class whose mean of features is nearest; by angle, `nearest_direction`
    logit_adjusted      subtract tau log pi
    bias_step           raise the biases of the classes that withstand least

Kang et al. 2020 (arXiv:1910.09217) propose tau-normalisation, learnable weight scaling (LWS) and the nearest mean for
long-tailed data, Menon et al. 2021 (arXiv:2007.07314) the adjustment.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust.remedies.counts import SMALLEST_SHARE

TAUS = tuple(np.round(np.arange(21) * 0.1, 1).tolist())  # 0 to 2


class Head(NamedTuple):
    """Weights [D, C], whose columns are the classes', and biases [C]; float32."""

    kernel: np.ndarray
    bias: np.ndarray


def tau_norm(head: Head, tau: float, *, keep_bias: bool = False) -> Head:
    """W_c / |W_c|^tau, without bias as published, or with the one there is. tau = 0 leaves the weights alone."""
    norms = np.linalg.norm(head.kernel, axis=0, keepdims=True)
    kernel = head.kernel / np.where(norms > 0, norms, 1.0) ** tau
    return Head(np.float32(kernel), head.bias if keep_bias else np.zeros_like(head.bias))


def head_norm(head: Head) -> Head:
    """W_c / |W_c|, bias kept: class-wise robustness goes along with the norms also where data are balanced."""
    return tau_norm(head, 1.0, keep_bias=True)


def scaled(head: Head, factors) -> Head:
    """f_c (h W_c + b_c), for factors f [C]."""
    return Head(np.float32(head.kernel * np.reshape(factors, (1, -1))), np.float32(head.bias * factors))


def nearest_mean(means) -> Head:
    """Linear head of the class whose mean [C, D] of features is nearest: 2 h c - |c|^2 is |h|^2 - |h - c|^2."""
    means = np.asarray(means, np.float64)
    return Head(np.float32(2 * means.T), np.float32(-np.square(means).sum(1)))


def nearest_direction(means) -> Head:
    """Cosine head of the class to whose mean [C, D] of unit features the angle is smallest.

    The means are brought to length 1 too. Between them as they are, nearest would not be a function of cosines alone.
    """
    means = np.asarray(means, np.float64)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return Head(np.float32((means / np.where(norms > 0, norms, 1.0)).T), np.zeros(len(means), np.float32))


def logit_adjusted(head: Head, prior, tau: float) -> Head:
    """z - tau log pi, for a prior [C] above 0. A prior that is the same for all classes changes no prediction."""
    prior = np.asarray(prior, np.float64)
    shift = tau * np.log(prior / prior.sum())
    return Head(head.kernel, np.float32(head.bias - (shift - shift.mean())))


def prior_of(values) -> np.ndarray:
    """A prior [C] in proportion to values [C] of at least 0, as logarithms need it; see counts.SMALLEST_SHARE."""
    values = np.asarray(values, np.float64)
    values = np.maximum(values, SMALLEST_SHARE * values.max()) if values.any() else np.ones_like(values)
    return values / values.sum()


def bias_step(head: Head, accuracy, size: float) -> Head:
    """b_c + size (mean of a - a_c): classes of less accuracy [C] than the mean are raised, others lowered."""
    accuracy = np.asarray(accuracy, np.float64)
    return Head(head.kernel, np.float32(head.bias + size * (accuracy.mean() - accuracy)))


class Trial(NamedTuple):
    """A head that was measured: its setting, and what `measure` said of it."""

    head: Head
    setting: float
    measured: object


def try_taus(head: Head, measure: Callable, *, keep_bias: bool) -> list[Trial]:
    """tau_norm by each of TAUS. `measure(head)` says how good one is."""
    heads = [tau_norm(head, tau, keep_bias=keep_bias) for tau in TAUS]
    return [Trial(tried, tau, measure(tried)) for tried, tau in zip(heads, TAUS, strict=True)]


def balance_bias(head: Head, measure: Callable, accuracy_of: Callable, *, size: float, iterations: int) -> list[Trial]:
    """A damped fixed point: bias steps of falling size, `size` at first, each by the accuracies of the last head.

    Args:
        measure: head -> what is known of it.
        accuracy_of: of that, the accuracy [C] of its classes.

    Returns:
        Each head on the way, the first is `head` itself; the setting is how many steps were made.
    """
    trials = [Trial(head, 0, measure(head))]
    for step in range(iterations):
        last = trials[-1]
        moved = bias_step(last.head, accuracy_of(last.measured), size * (1 - step / iterations))
        trials.append(Trial(moved, step + 1, measure(moved)))
    return trials


def best(trials: list[Trial], score: Callable) -> Trial:
    """The trial whose measurement has the highest score, the earliest of several."""
    return max(trials, key=lambda trial: score(trial.measured))
