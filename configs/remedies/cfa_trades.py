"""CFA on TRADES (Wei et al. 2023): radius and trade-off by class, weights averaged only if no class is too weak.

Published, AutoAttack average / worst class, best checkpoint: 50.1 / 26.5 (with averaged weights alone 49.7 / 24.2).

python -m jaxrobust.main --config configs/remedies/cfa_trades.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.model.name = "preact_resnet18"
    config.objective.name = "trades"
    config.objective.beta = 6.0
    config.remedy.cfa.radius_base = 0.3
    config.remedy.cfa.beta_base = 0.5

    config.remedy.name = "cfa"
    config.remedy.begin = 10 / 200
    config.remedy.cfa.average = True
    config.remedy.cfa.average_begin = 50 / 200
    config.remedy.cfa.average_threshold = 0.2
    config.remedy.cfa.average_decay = 0.85
    config.data.pad_mode = "reflect"
    config.train.epochs = 200
    config.optimizer.milestones = (0.5, 0.75)
    return config
