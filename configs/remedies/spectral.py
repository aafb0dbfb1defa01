"""Confusional spectral regularisation (Jin et al. 2025): two epochs of fine-tuning with TRADES at a rate of 0.001.

    python -m jaxrobust.main --config configs/remedies/spectral.py --config.train.start_from=RUN --workdir DIR

The weights depend on the confusions of the previous epoch, so the first of the two epochs is plain TRADES.

RUN is the workdir of a robust model that is fine-tuned, trained with configs/objectives/trades.py here or imported.
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "trades"
    config.objective.beta = 6.0
    config.remedy.name = "spectral"
    config.remedy.spectral.weight = 0.3

    config.optimizer.learning_rate = 0.001
    config.optimizer.schedule = "constant"
    config.train.epochs = 2
    config.checkpoint.every_epochs = 1
    config.eval.every_epochs = 1
    return config
