"""Noise-FGSM (de Jorge et al. 2022), https://arxiv.org/abs/2202.01181."""

import dataclasses

from jaxrobust.attacks import threats
from jaxrobust.objectives.objective import Criterion, Objective
from jaxrobust.objectives.pgd_at import pgd_at


def n_fgsm(criterion: Criterion, noise: float) -> Objective:
    """`pgd_at` with one step from a point up to `noise` radii away, not projected to the ball."""

    def far(norm, keys, images, radius):
        return threats.random_start(norm, keys, images, noise * radius)

    def vary(pgd):
        return dataclasses.replace(pgd, start=far, relative_radius=1.0 + noise)

    return pgd_at(criterion)._replace(vary=vary)
