"""WAT (Li & Liu 2023): TRADES, weights by no-regret dynamics on the validation loss of each class (300 images each).

Published by Lee et al. 2024, average / worst class: clean 81.0 / 70.6, AutoAttack 46.3 / 28.6 (TRADES 49.8 / 21.3).

python -m jaxrobust.main --config configs/remedies/wat.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "trades"
    config.objective.beta = 6.0
    config.remedy.name = "wat"
    config.remedy.observe = "validation"
    config.remedy.wat.eta = 0.1
    config.data.validation_per_class = 300
    config.train.epochs = 100
    config.optimizer.weight_decay = 2e-4
    config.optimizer.milestones = (0.75, 0.9)
    return config
