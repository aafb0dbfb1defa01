"""Fast adversarial training of a ResNet-50 on ImageNet at 4/255: one step of 1.25 times the radius from a random start,
in 15 epochs, as Wong et al. 2020 (arXiv:2001.03994), at one image size throughout.

    python -m jaxrobust.main --config configs/imagenet_fast.py --config.data.data_dir=DIR

Data, batch and scored images as in imagenet.py; variants likewise. At 2/255: `--config.threat.eps_255=2
--config.attack.step_size_255=2.5`. One-step training can break down: robust accuracy falls to nothing while clean
accuracy jumps. A warning says so after the epoch; `--config.attack.steps=2`, or a smaller step, helps.

Cost: one epoch is 1.28 million x 5 forward passes of 8.2 GFLOP, 53 PFLOP, and 15 epochs are a tenth of imagenet.py; the
host must decode nearly twice as many images per second. Published for images that grow from 128 to 288 pixels while
training: clean 55.6 %, 26.2 % under AutoAttack (RobustBench, Wong2020Fast).
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent / "imagenet.py"


def get_config():
    config = from_file(BASE)
    config.attack.steps = 1
    config.attack.step_size_255 = 5.0
    config.train.epochs = 15
    config.optimizer.learning_rate = 0.2
    config.optimizer.schedule = "one_cycle"
    return config
