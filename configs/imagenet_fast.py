"""Fast adversarial training of a ResNet-50 on ImageNet at 4/255: one step of 1.25 times the radius from a random start,
15 epochs, as in Wong et al. 2020 (arXiv:2001.03994), but with a constant image size.

    python -m jaxrobust.main --config configs/imagenet_fast.py --config.data.data_dir=DIR

Data, batch size, scored images and variants are as in imagenet.py. At 2/255: `--config.threat.eps_255=2
--config.attack.step_size_255=2.5`. One-step training can fail by catastrophic overfitting: robust accuracy falls to
almost 0 while clean accuracy jumps. A warning is printed after such an epoch; `--config.attack.steps=2`, or a smaller
step, helps.

Cost: one epoch is 1.28 million x 5 forward passes of 8.2 GFLOP, 53 PFLOP. The 15 epochs cost a tenth of imagenet.py,
but the host must decode nearly twice as many images per second. Published, for images that grow from 128 to 288 pixels
during training: clean 55.6 %, 26.2 % under AutoAttack (RobustBench, Wong2020Fast).
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
