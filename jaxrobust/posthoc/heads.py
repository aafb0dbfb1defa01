"""Remedies after training: replace the head of a classifier, without changing its features.

A head is linear, with logits h W + b, or cosine (models/layers.py), with the same arrays. Information about classes,
such as counts or accuracies, is passed as float arrays [C]; no function here uses the examples.

    tau_norm            divide the weights of each class by a power of their norm; tau = 1 is `head_norm`
    scaled              multiply the logits of each class by a factor, as learnt by LWS
    nearest_mean        predict the class with the nearest mean of features; `nearest_direction` compares angles
    logit_adjusted      subtract tau log pi
    bias_step           raise the biases of the classes with the lowest accuracy

Tau-normalisation, learnable weight scaling (LWS) and the nearest mean were proposed for long-tailed data by Kang et al.
2020 (arXiv:1910.09217), the logit adjustment by Menon et al. 2021 (arXiv:2007.07314).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust.remedies.counts import SMALLEST_SHARE

TAUS = tuple(np.round(np.arange(21) * 0.1, 1).tolist())  # 0 to 2


class Head(NamedTuple):
    """Weights [D, C], one column per class, and biases [C]; float32."""

    kernel: np.ndarray
    bias: np.ndarray


def tau_norm(head: Head, tau: float, *, keep_bias: bool = False) -> Head:
    """W_c / |W_c|^tau; bias 0 as published, or the bias of `head` with `keep_bias`. tau = 0 keeps the weights."""
    norms = np.linalg.norm(head.kernel, axis=0, keepdims=True)
    kernel = head.kernel / np.where(norms > 0, norms, 1.0) ** tau
    return Head(np.float32(kernel), head.bias if keep_bias else np.zeros_like(head.bias))


def head_norm(head: Head) -> Head:
    """W_c / |W_c|, bias kept: the robustness of classes correlates with these norms even if the data are balanced."""
    return tau_norm(head, 1.0, keep_bias=True)


def scaled(head: Head, factors) -> Head:
    """f_c (h W_c + b_c), for factors f [C]."""
    return Head(np.float32(head.kernel * np.reshape(factors, (1, -1))), np.float32(head.bias * factors))


def nearest_mean(means) -> Head:
    """Linear head that predicts the class with the nearest mean c of features, from `means` [C, D].

    Its logits are 2 h c - |c|^2 = |h|^2 - |h - c|^2.
    """
    means = np.asarray(means, np.float64)
    return Head(np.float32(2 * means.T), np.float32(-np.square(means).sum(1)))


def nearest_direction(means) -> Head:
    """Cosine head that predicts the class whose mean of unit features has the smallest angle, from `means` [C, D].

    The means are scaled to length 1 too: with other lengths, the nearest mean would not depend on cosines only.
    """
    means = np.asarray(means, np.float64)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return Head(np.float32((means / np.where(norms > 0, norms, 1.0)).T), np.zeros(len(means), np.float32))


def logit_adjusted(head: Head, prior, tau: float) -> Head:
    """Logits z - tau log pi, for a prior pi [C] above 0. A uniform prior changes no prediction."""
    prior = np.asarray(prior, np.float64)
    shift = tau * np.log(prior / prior.sum())
    return Head(head.kernel, np.float32(head.bias - (shift - shift.mean())))


def prior_of(values) -> np.ndarray:
    """A prior [C] proportional to non-negative values [C], bounded away from 0 by counts.SMALLEST_SHARE."""
    values = np.asarray(values, np.float64)
    values = np.maximum(values, SMALLEST_SHARE * values.max()) if values.any() else np.ones_like(values)
    return values / values.sum()


def bias_step(head: Head, accuracy, size: float) -> Head:
    """Biases b_c + size (mean of a - a_c): raised for classes with accuracy a_c below the mean, lowered for others."""
    accuracy = np.asarray(accuracy, np.float64)
    return Head(head.kernel, np.float32(head.bias + size * (accuracy.mean() - accuracy)))


class Trial(NamedTuple):
    """A head that was measured, with its setting and the result of `measure`."""

    head: Head
    setting: float
    measured: object


def try_taus(head: Head, measure: Callable, *, keep_bias: bool) -> list[Trial]:
    """Measure tau_norm with each of TAUS. `measure(head)` returns a description of its quality."""
    heads = [tau_norm(head, tau, keep_bias=keep_bias) for tau in TAUS]
    return [Trial(tried, tau, measure(tried)) for tried, tau in zip(heads, TAUS, strict=True)]


def balance_bias(head: Head, measure: Callable, accuracy_of: Callable, *, size: float, iterations: int) -> list[Trial]:
    """A damped fixed-point iteration: bias steps from the accuracies [C], `accuracy_of` the measurement of the latest
    head, of size `size`, falling to 0. Returns all heads, starting with `head` itself; the setting is the number of
    steps.
    """
    trials = [Trial(head, 0, measure(head))]
    for step in range(iterations):
        last = trials[-1]
        moved = bias_step(last.head, accuracy_of(last.measured), size * (1 - step / iterations))
        trials.append(Trial(moved, step + 1, measure(moved)))
    return trials


def best(trials: list[Trial], score: Callable) -> Trial:
    """The trial with the highest score of its measurement; the earliest if several are equal."""
    return max(trials, key=lambda trial: score(trial.measured))
