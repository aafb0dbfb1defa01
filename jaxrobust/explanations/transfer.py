"""Probes of transfer: whether adversarial images made on one model fool another model."""

import numpy as np

from jaxrobust.explanations.probe import by_class, of_family

_probe = of_family("transfer", "model")

ATTACK = "pgd20"


def fooled(labels, natural, adversarial, num_classes: int) -> np.ndarray:
    """Share of the images of each class that the target model misclassifies after the attack, [C].

    Images with a wrong natural prediction of the target model do not count.
    """
    labels, natural, adversarial = map(np.asarray, (labels, natural, adversarial))
    right = natural == labels
    return by_class((adversarial != labels)[right], labels[right], num_classes)


def _measure(direction):
    return lambda inputs: fooled(*inputs.transfer(direction), len(inputs.class_names))


PROBES = (
    _probe("transfer_out", -1, _measure("out"),
           f"Share of the class's adversarial images made on this model ({ATTACK}) that fool the other model."),
    _probe("transfer_in", -1, _measure("in"),
           f"Share of the class's adversarial images made on the other model ({ATTACK}) that fool this model."),
)  # fmt: skip
