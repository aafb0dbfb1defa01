"""FAAL (Zhang et al. 2024): two epochs of fine-tuning, at rates of 0.01 and 0.001.

Published, average / worst class: clean 80.7 / 65.9, PGD-20 48.8 / 36.3, AutoAttack 45.5 / 31.1.

    python -m jaxrobust.main --config configs/remedies/faal.py --config.train.start_from=RUN --workdir DIR

RUN is the workdir of a robust model that is fine-tuned, trained here
(configs/cifar10.py --config.model.name=preact_resnet18) or imported.
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.model.name = "preact_resnet18"
    config.remedy.name = "faal"
    config.remedy.faal.divergence = 0.5
    config.attack.batch_norm = "eval"
    config.optimizer.milestones = (0.5,)
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "piecewise"
    config.train.epochs = 2
    config.checkpoint.every_epochs = 1
    config.eval.every_epochs = 1
    return config
