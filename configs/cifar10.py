"""PGD adversarial training of a ResNet-18 on CIFAR-10 at 8/255: attack and optimizer of Rice et al. 2020, and the
shorter schedule of Pang et al. 2021, which stops before robust overfitting sets in.

    python -m jaxrobust.main --config configs/cifar10.py

The first run downloads the data through TensorFlow Datasets; `--config.data.data_dir=DIR` reads a prepared folder.
Other models: `--config.model.name=preact_resnet18`, or `--config.model.name=wide_resnet --config.model.depth=34
--config.model.width=10`.

Cost: one epoch is 49,000 x 23 forward passes of 1.1 GFLOP; it needs a GPU or TPU (for a CPU see cifar10_cnn.py).
Expect, from published runs of this setting: clean 81-85 %, PGD-20 47-53 %, the worst class (cat or deer) 15-28 %.
"""

from jaxrobust.config import default


def get_config():
    config = default()
    config.data.name = "tfds:cifar10"
    config.data.validation_per_class = 100
    config.data.augment = ("crop", "flip")
    config.model.name = "resnet18"
    config.model.dtype = "bfloat16"
    config.model.mean = (0.4914, 0.4822, 0.4465)
    config.model.std = (0.2471, 0.2435, 0.2616)
    config.threat.eps_255 = 8.0
    config.attack.steps = 10
    config.attack.step_size_255 = 2.0
    config.train.epochs = 110
    config.train.batch_size = 128
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "piecewise"
    config.optimizer.milestones = (100 / 110, 105 / 110)
    config.checkpoint.every_epochs = 5
    config.checkpoint.keep = 3
    config.eval.every_epochs = 5
    return config
