"""A penalty on the differences between classes (Ma et al. 2022)."""

from jaxrobust.objectives.objective import Criterion, Objective
from jaxrobust.objectives.pgd_at import pgd_at
from jaxrobust.remedies import in_batch


def variance_penalty(criterion: Criterion, strength: float) -> Objective:
    """`pgd_at` plus `strength` times the variance of the classes' mean losses in the batch."""
    return pgd_at(criterion)._replace(in_batch=in_batch.variance_penalty(strength))
