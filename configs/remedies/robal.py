"""RoBal-N (Wu et al. 2021) on long-tailed CIFAR-10, ratio 0.02: cosine head, margin and prior, 5 steps, 80 epochs.

Published with a Wide ResNet-34-10 and the adjustment of logits by 0.1 after training (`jaxrobust posthoc`).

    python -m jaxrobust.main --config configs/remedies/robal.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "trades"
    config.objective.beta = 6.0
    config.objective.climb = "cross_entropy"
    config.model.head = "cosine"
    config.model.head_scale = 10.0
    config.remedy.name = "robal"
    config.remedy.robal.margin = 0.1
    config.remedy.robal.prior_tau = 1.2
    config.attack.steps = 5
    config.train.epochs = 80
    config.train.batch_size = 64
    config.optimizer.weight_decay = 2e-4
    config.optimizer.milestones = (0.75, 75 / 80)
    config.data.imbalance = "exponential"
    config.data.imbalance_ratio = 0.02
    return config
