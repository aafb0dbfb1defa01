"""Probes of transfer: do adversarial images made on one model fool another one?"""

import numpy as np

from jaxrobust.explanations.probe import Probe, by_class

ATTACK = "pgd20"


def fooled(labels, natural, adversarial, num_classes: int) -> np.ndarray:
    """Share of the images of each class that the other model gets wrong once they are adversarial, [C].

    Args:
        labels: [n] of images that both models get right as they are.
        natural, adversarial: [n] predictions of the other model; images that it gets wrong as they are do not count.
        num_classes: C.
    """
    right = np.asarray(natural) == np.asarray(labels)
    wrong = (np.asarray(adversarial) != np.asarray(labels))[right]
    return by_class(wrong, np.asarray(labels)[right], num_classes)


def _measure(direction):
    return lambda subject: fooled(*subject.transfer(direction), len(subject.class_names))


PROBES = (
    Probe(
        "transfer_out",
        f"Share of the class's adversarial images made on this model ({ATTACK}) that fool the other one.",
        "transfer",
        "model",
        -1,
        _measure("out"),
    ),
    Probe(
        "transfer_in",
        f"Share of the class's adversarial images made on the other model ({ATTACK}) that fool this one.",
        "transfer",
        "model",
        -1,
        _measure("in"),
    ),
)
