"""FRL, reweight and remargin (Xu et al. 2021): fine-tunes with TRADES, beta 1.5, for 40 epochs at a rate of 0.001.

Published by Wei et al. 2023, AutoAttack average / worst class, best checkpoint: 45.9 / 25.4.

Whether a class violates its constraint is measured on the validation split, 300 images per class.

    python -m jaxrobust.main --config configs/remedies/frl.py --config.train.start_from=RUN --workdir DIR

RUN is the workdir of a robust model that is fine-tuned: trained here, with the same images held out
(configs/cifar10.py --config.model.name=preact_resnet18 --config.data.validation_per_class=300), or imported.
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent.parent / "cifar10.py"


def get_config():
    config = from_file(BASE)
    config.objective.name = "trades"
    config.objective.beta = 1.5
    config.model.name = "preact_resnet18"
    config.remedy.name = "frl"
    config.remedy.observe = "validation"
    config.remedy.frl.variant = "both"
    config.remedy.frl.natural_tolerance = 0.07
    config.remedy.frl.boundary_tolerance = 0.07
    config.data.validation_per_class = 300
    config.optimizer.learning_rate = 0.001
    config.optimizer.schedule = "constant"
    config.train.epochs = 40
    config.checkpoint.every_epochs = 5
    config.eval.every_epochs = 5
    return config
