"""AT-BSL (Yue et al. 2024) on long-tailed CIFAR-10, ratio 0.02: balanced softmax on adversarial images, 100 epochs.

python -m jaxrobust.main --config configs/remedies/at_bsl.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.remedy.name = "balanced_softmax"
    config.train.epochs = 100
    config.optimizer.milestones = (0.75, 0.9)
    config.attack.batch_norm = "eval"

    config.data.imbalance = "exponential"
    config.data.imbalance_ratio = 0.02
    return config
