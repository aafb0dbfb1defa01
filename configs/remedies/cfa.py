"""CFA on PGD adversarial training (Wei et al. 2023): radius by class, weights averaged only if no class is too weak.

Published, AutoAttack average / worst class, best checkpoint: 50.1 / 24.4 (with averaged weights alone 49.6 / 21.3).

The accuracy of the weakest class is measured on the validation split.

    python -m jaxrobust.main --config configs/remedies/cfa.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.model.name = "preact_resnet18"
    config.remedy.cfa.radius_base = 0.5

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
