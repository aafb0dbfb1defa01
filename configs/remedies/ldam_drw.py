"""LDAM with deferred re-weighting (Cao et al. 2019) on long-tailed CIFAR-10, ratio 0.02: weights for the last 20 %.

python -m jaxrobust.main --config configs/remedies/ldam_drw.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.model.head = "cosine"
    config.model.head_scale = 30.0
    config.remedy.name = "ldam+reweight"
    config.remedy.reweight.begin = 0.8
    config.train.epochs = 200
    config.optimizer.warmup = 5 / 200
    config.optimizer.milestones = (0.8, 0.9)
    config.optimizer.decay_factor = 0.01

    config.data.imbalance = "exponential"
    config.data.imbalance_ratio = 0.02
    return config
