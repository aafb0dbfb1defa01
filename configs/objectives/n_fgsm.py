"""N-FGSM (de Jorge et al. 2022): one step of 8/255 from noise of 16/255, 30 epochs, one-cycle learning rate up to 0.2.

python -m jaxrobust.main --config configs/objectives/n_fgsm.py
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "n_fgsm"
    config.objective.noise = 2.0
    config.attack.step_size_255 = 8.0
    config.train.epochs = 30
    config.optimizer.warmup = 0.5

    config.model.name = "preact_resnet18"
    config.attack.steps = 1
    config.optimizer.learning_rate = 0.2
    config.optimizer.schedule = "one_cycle"
    return config
