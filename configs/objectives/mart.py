"""MART (Wang et al. 2020): beta 5, rate 0.01, weight decay 3.5e-3, 120 epochs, as in the authors' code for ResNet-18.

python -m jaxrobust.main --config configs/objectives/mart.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "mart"
    config.objective.beta = 5.0
    config.train.epochs = 120
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 3.5e-3
    config.optimizer.milestones = (75 / 120, 90 / 120, 100 / 120)
    return config
