"""Remedies on Gaussian mixtures: where training with them comes to rest, against the solution of what they solve.

Each case is a linear model trained by the project's own steps, with what its remedy observes at the end of each epoch,
and the intercept c at which the remedy's dynamics stand still, by quadrature. Unless a case says otherwise, class +1
has twice the standard deviation of class -1 and is the hard one.
"""

from collections.abc import Callable
from typing import NamedTuple

import gaussian_training as theory
import numpy as np
import pytest
from scipy import optimize, stats

RADIUS = 0.03
M, SPREAD = theory.margin_of(RADIUS), 2.0
RARE = {"stddevs": (1.0, 1.0), "priors": (1 / 6, 5 / 6)}  # equal variances, class -1 rare
EACH_EPOCH = {"batch_size": 8000, "epochs": 20}  # for dynamics of epochs: 20 steps suffice to follow the knobs
WAT = {"remedy__name": "wat", "remedy__wat__eta": 1.0, **EACH_EPOCH, "epochs": 30}
CFOL = {"remedy__name": "cfol", "remedy__cfol__eta": 1e-5, **EACH_EPOCH, "epochs": 30}
FAAL = {"remedy__name": "faal", "batch_size": 16_000, "epochs": 40, "optimizer__learning_rate": 0.1}
# PGD-AT does not look at natural images in training, so FRL observes a validation split. Each case has one constraint;
# the other's tolerance is 1, which no error exceeds.
FRL = {
    "remedy__name": "frl",
    "remedy__observe": "validation",
    "data__validation_per_class": 60_000,
    "data__gaussians__train_examples": 240_000,
    "remedy__frl__natural_tolerance": 1.0,
    "remedy__frl__boundary_tolerance": 1.0,
    **EACH_EPOCH,
}
FRL_NATURAL, FRL_BOUNDARY = 0.02, 0.01
TRADES_BETA = 6.0


def weighted(share, m=M, spread=SPREAD):
    """(a, b) of PGD-AT where class +1 has that share of the loss."""
    return theory.logistic_optimum(m, spread, share)


def trades_losses(ab):
    return theory.trades_losses(ab, RADIUS / 0.1, SPREAD, TRADES_BETA, "either")


def trades_weighted(share):
    return theory.optimum(trades_losses, share)


def difference(pair):
    return pair[1] - pair[0]


def wat():
    """Minimax of the class losses: Hedge has no more to choose between where they are equal, and so to their mean."""
    return weighted(theory.share_where(lambda ab: difference(theory.class_losses(ab, (M, M), SPREAD)), weighted))


def wat_trades():
    """The same with the losses of TRADES."""
    return trades_weighted(theory.share_where(lambda ab: difference(trades_losses(ab)), trades_weighted))


def robust_errors(ab):
    return theory.class_errors(theory.intercept(ab), M, SPREAD)


def cfol():
    """Equal robust 0-1 errors, among the minimisers of the weighted cross-entropy: Exp3 gains by errors alone."""
    ab = weighted(theory.share_where(lambda ab: difference(robust_errors(ab)), weighted))
    assert theory.intercept(ab) == pytest.approx(M * (SPREAD - 1) / (SPREAD + 1))  # c of the smallest worst error
    return ab


def faal(batch, stddevs=(1.0, 2.0), priors=(0.5, 0.5), divergence=0.5):
    """Where the mean gradient of FAAL is zero; which of two weights a class gets goes by the batch's softmax margins.

    With two classes the mixture furthest from uniform is always met, w and 1 - w, and the larger weight belongs to the
    class whose mean of 2 (1 - p_y) - 1 is the larger. Over batches that happens with a probability by the normal
    distribution of the means; and a batch in which a class looks hard has larger gradients of it as well, which adds
    the covariance of margin and gradient times the density of a change of weights. That falls as 1 / sqrt(batch).
    """
    low = optimize.brentq(lambda w: -np.log(4 * w * (1 - w)) / 2 - divergence, 1e-6, 0.5)  # KL(uniform || w)

    def mean_gradient(ab):
        parts = []
        for sign, spread, prior in zip((-1, 1), stddevs, priors, strict=True):
            t = sign * M + spread * theory.NODES
            wrong = 1 / (1 + np.exp(sign * (ab[0] * t + ab[1])))  # 1 - p_y
            parts.append((prior, 2 * wrong - 1, np.stack([-sign * wrong * t, -sign * wrong])))
        means = [margin @ theory.WEIGHTS for _, margin, _ in parts]
        noise = sum(
            (margin - mean) ** 2 @ theory.WEIGHTS / (prior * batch)
            for mean, (prior, margin, _) in zip(means, parts, strict=True)
        )
        total = 0.0
        for (prior, margin, gradient), mean, other in zip(parts, means, means[::-1], strict=True):
            lead = (mean - other) / np.sqrt(noise)
            weight = low + (1 - 2 * low) * stats.norm.cdf(lead)
            change = (1 - 2 * low) * stats.norm.pdf(lead) / np.sqrt(noise)
            expected = gradient @ theory.WEIGHTS
            covariance = ((margin - mean) * gradient) @ theory.WEIGHTS / (prior * batch)
            total += prior * (weight * expected + change * covariance)
        return total

    found = optimize.root(mean_gradient, weighted(0.5, spread=stddevs[1]))
    assert found.success
    return found.x


def frl_natural():
    """Natural errors differ by twice the tolerance, as the constraint on class +1 says; that on boundary errors rests.

    FRL looks for no minimax: it stops where its constraints are met.
    """
    natural = lambda ab: theory.class_errors(theory.intercept(ab), 1.0, SPREAD)  # noqa: E731
    return weighted(theory.share_where(lambda ab: difference(natural(ab)) - 2 * FRL_NATURAL, weighted))


def boundary_excess(ab):
    c = theory.intercept(ab)
    return -difference(theory.class_errors(c, M, SPREAD) - theory.class_errors(c, 1.0, SPREAD)) / 2


def frl_boundary():
    """Boundary errors differ by twice the tolerance. That of class -1 is the larger: FRL helps the class that is
    the better one by natural and by robust error."""
    return weighted(theory.share_where(lambda ab: boundary_excess(ab) - FRL_BOUNDARY, weighted))


def frl_by_radii():
    """The same by radii in place of weights: that of class +1 goes to its lower bound, that of class -1 rises."""

    def at(scale):
        return weighted(0.5, [1 - scale * (1 - M), 1 - 0.98 * (1 - M)])

    return at(optimize.brentq(lambda scale: boundary_excess(at(scale)) - FRL_BOUNDARY, 1.0, 2.5))


class Case(NamedTuple):
    """What is trained, where it should come to rest, and within what.

    Attributes:
        fields: arguments of `gaussian_training.train`.
        truth: () -> (a, b).
        tolerance: of c.
    """

    fields: dict
    truth: Callable
    tolerance: float


CASES = {
    "wat": Case(WAT, wat, 0.012),
    "wat, trades": Case(WAT | {"objective": "trades", "attack__steps": 2}, wat_trades, 0.012),
    "cfol": Case(CFOL, cfol, 0.025),
    # No class is drawn with less than gamma / C, and so class +1 with at most 0.52, where its errors remain the larger.
    "cfol, at its floor": Case(
        CFOL | {"remedy__cfol__eta": 1e-4, "remedy__cfol__gamma": 0.96, "epochs": 20}, lambda: weighted(0.52), 0.015
    ),
    "faal": Case(FAAL, lambda: faal(FAAL["batch_size"]), 0.012),
    "faal, rare class": Case(FAAL | RARE, lambda: faal(FAAL["batch_size"], **RARE), 0.02),
    # Weights of 0.65 and 0.35 at most, short of what makes up for a class five times as rare.
    "faal, rare class, bounded": Case(
        FAAL | RARE | {"remedy__faal__divergence": 0.05, "epochs": 15},
        lambda: faal(FAAL["batch_size"], **RARE, divergence=0.05),
        0.012,
    ),
    "frl, natural errors": Case(
        FRL
        | {
            "remedy__frl__variant": "reweight",
            "remedy__frl__natural_tolerance": FRL_NATURAL,
            "remedy__frl__weight_rate": 1.0,
        },
        frl_natural,
        0.015,
    ),
    "frl, boundary errors": Case(
        FRL
        | {
            "remedy__frl__variant": "reweight",
            "remedy__frl__boundary_tolerance": FRL_BOUNDARY,
            "remedy__frl__weight_rate": 2.0,
        },
        frl_boundary,
        0.02,
    ),
    "frl, boundary errors by radii": Case(
        FRL
        | {
            "remedy__frl__variant": "remargin",
            "remedy__frl__boundary_tolerance": FRL_BOUNDARY,
            "remedy__frl__radius_rate": 10.0,
        },
        frl_by_radii,
        0.02,
    ),
    "balanced softmax": Case({"remedy__name": "balanced_softmax", **RARE}, lambda: weighted(0.5, M, 1.0), 0.006),
    "logit adjustment, natural": Case(
        {"remedy__name": "logit_adjustment", "objective": "standard", "radius_01": 0.0, **RARE},
        lambda: weighted(0.5, 1.0, 1.0),
        0.006,
    ),
}


# One case of each way in which knobs act: on weights, sampling, weights within a batch, radii and logits.
FAST = ("wat", "cfol, at its floor", "faal, rare class, bounded", "frl, boundary errors by radii", "balanced softmax")


@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_remedies_come_to_rest_where_theory_says(case):
    """The intercept c, against that of the equilibrium.

    What is left is the estimation error of the drawn examples. Over six redraws of the data the standard deviation of c
    was 0.002 for the log priors, 0.003 for WAT and FAAL, 0.005 for FRL by natural errors and CFOL at its floor, 0.006
    for FAAL with a rare class and FRL by boundary errors, and 0.008 for CFOL, which draws its examples anew each epoch.
    Tolerances are about three of them. What remedies move c away from is 0.058, and with the rare class 1.150.
    """
    fields, truth, tolerance = CASES[case]
    model = theory.train(**{"radius_01": RADIUS} | fields)
    assert model.intercept == pytest.approx(theory.intercept(truth()), abs=tolerance)


def test_faal_of_large_batches_is_training_with_equal_class_weights():
    """The mean of 1 - p_y is the gradient of a class's loss by the intercept, so that equal softmax margins are the
    optimum for equal weights: FAAL makes up for a rare class, and leaves two balanced ones where PGD-AT has them."""
    assert theory.intercept(faal(10**9)) == pytest.approx(theory.intercept(weighted(0.5)), abs=1e-4)
    assert theory.intercept(faal(10**9, **RARE)) == pytest.approx(0.0, abs=1e-4)
