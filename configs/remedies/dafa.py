"""DAFA (Lee et al. 2024): TRADES, and from epoch 70 of 110 on weights and radii by the distances between classes.

Published, average / worst class: clean 81.6 / 67.9, AutoAttack 49.1 / 30.5 (TRADES 49.8 / 21.3).

python -m jaxrobust.main --config configs/remedies/dafa.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "trades"
    config.objective.beta = 6.0
    config.remedy.name = "dafa"
    config.remedy.dafa.begin = 70 / 110
    config.remedy.dafa.strength = 1.0
    config.optimizer.nesterov = True
    return config
