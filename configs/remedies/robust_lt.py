"""RobustLT on long-tailed CIFAR-10, ratio 0.02: larger radii for rarer classes, raised over 80 % of the training.

python -m jaxrobust.main --config configs/remedies/robust_lt.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.remedy.name = "robust_lt"
    config.remedy.robust_lt.strength = 0.3
    config.attack.radius_warmup = 0.8

    config.data.imbalance = "exponential"
    config.data.imbalance_ratio = 0.02
    return config
