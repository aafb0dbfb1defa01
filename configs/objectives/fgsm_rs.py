"""FGSM with a random start (Wong et al. 2020): one step of 10/255, 15 epochs, one-cycle learning rate up to 0.2.

Watch for warnings about catastrophic overfitting.

    python -m jaxrobust.main --config configs/objectives/fgsm_rs.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "fgsm_rs"
    config.attack.step_size_255 = 10.0
    config.train.epochs = 15
    config.optimizer.warmup = 0.5

    config.model.name = "preact_resnet18"
    config.attack.steps = 1
    config.optimizer.learning_rate = 0.2
    config.optimizer.schedule = "one_cycle"
    return config
