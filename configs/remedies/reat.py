"""REAT (Li et al. 2023) on long-tailed CIFAR-10, ratio 0.02: weights from predictions, balanced softmax, 80 epochs.

python -m jaxrobust.main --config configs/remedies/reat.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.remedy.name = "reat"
    config.attack.batch_norm = "eval"
    config.train.epochs = 80
    config.optimizer.milestones = (0.75, 75 / 80)

    config.data.imbalance = "exponential"
    config.data.imbalance_ratio = 0.02
    return config
