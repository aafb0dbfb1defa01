"""CFOL (Pethick et al. 2023): a bandit draws classes by their adversarial errors; PGD with 7 steps, 200 epochs.

python -m jaxrobust.main --config configs/remedies/cfol.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.remedy.name = "cfol"
    config.remedy.cfol.gamma = 0.5
    config.remedy.cfol.eta = 5e-6
    config.attack.steps = 7
    config.attack.batch_norm = "eval"
    config.train.epochs = 200
    config.optimizer.milestones = (0.5, 0.75)
    return config
