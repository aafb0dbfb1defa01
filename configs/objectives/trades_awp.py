"""TRADES with adversarial weight perturbation (Wu et al. 2020): gamma 0.005 from the tenth of 200 epochs on.

python -m jaxrobust.main --config configs/objectives/trades_awp.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "trades"
    config.objective.beta = 6.0
    config.objective.awp_gamma = 0.005
    config.objective.awp_begin = 10 / 200
    config.train.epochs = 200
    config.optimizer.milestones = (0.5, 0.75)
    return config
