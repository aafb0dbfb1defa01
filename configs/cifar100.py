"""PGD adversarial training of a PreAct ResNet-18 on CIFAR-100 at 8/255, with the schedule of configs/cifar10.py.

    python -m jaxrobust.main --config configs/cifar100.py

Cost as configs/cifar10.py. Expect, from published runs: clean 53 %, PGD-10 28 % right after the first drop of the
learning rate. With 100 test images per class, few images decide which class is the worst: use bottom-k and the
intervals.
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.data.name = "tfds:cifar100"
    config.data.validation_per_class = 20
    config.model.name = "preact_resnet18"
    config.model.mean = (0.5071, 0.4866, 0.4409)
    config.model.std = (0.2673, 0.2564, 0.2762)
    return config
