"""Free adversarial training (Shafahi et al. 2019) with the schedule of Wong et al. 2020: 8 updates on each batch.

12 epochs of 8 replays are 96 passes over the data.

    python -m jaxrobust.main --config configs/objectives/free.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "free"
    config.objective.replays = 8
    config.attack.step_size_255 = 8.0
    config.train.epochs = 12
    config.optimizer.learning_rate = 0.04
    config.optimizer.warmup = 0.5
    config.optimizer.schedule = "one_cycle"
    config.attack.steps = 1
    config.model.name = "preact_resnet18"
    return config
