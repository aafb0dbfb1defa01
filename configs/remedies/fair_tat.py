"""FAIR-TAT (Medi et al. 2025): training attacks target the most frequent wrong predictions; radius by class as in CFA.

python -m jaxrobust.main --config configs/remedies/fair_tat.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.remedy.name = "fair_tat"
    config.remedy.fair_tat.radius_base = 0.5
    config.train.epochs = 200
    config.optimizer.milestones = (0.5, 0.75)
    return config
