"""Adversarial training for free (Shafahi et al. 2019), https://arxiv.org/abs/1904.12843."""

from jaxrobust.objectives.objective import Criterion, Objective
from jaxrobust.objectives.pgd_at import pgd_at


def free(criterion: Criterion, replays: int) -> Objective:
    """`replays` updates on each batch; the gradient of each also gives a step of the attack, see training/step.py.

    The perturbation is reset for every batch. The attack maximises the training loss, including its knobs.
    """
    plain = pgd_at(criterion)
    knobs = tuple(knob for knob in plain.knobs if knob != "target_logit")
    return plain._replace(knobs=knobs, passes=3 * replays, replays=replays)
