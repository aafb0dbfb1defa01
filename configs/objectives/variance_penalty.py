"""Penalty on the variance of the class losses (Ma et al. 2022): weight 0.1, 120 epochs, weight decay 2e-4.

python -m jaxrobust.main --config configs/objectives/variance_penalty.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "variance_penalty"
    config.objective.variance = 0.1
    config.train.epochs = 120
    config.optimizer.weight_decay = 2e-4
    config.optimizer.milestones = (60 / 120, 90 / 120)
    return config
