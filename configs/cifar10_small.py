"""CIFAR-10 with images of half size, a quarter of the training images, a small CNN: half a minute on one CPU core.

    python -m jaxrobust.main --config configs/cifar10_small.py

For experiments with many trainings. Robust accuracies, at 4/255, are far from those of a ResNet, but the weak classes
are the same: cat, deer, bird, and dog.
"""

import pathlib

from jaxrobust.config import from_file

BASE = pathlib.Path(__file__).parent / "cifar10_cnn.py"


def get_config():
    config = from_file(BASE)
    config.data.image_size = 16
    config.data.shares = ("*:0.25",)
    config.data.validation_per_class = 50
    config.model.width = 16
    config.threat.eps_255 = 4.0
    config.attack.steps = 3
    config.attack.step_size_255 = 2.0
    config.train.epochs = 5
    config.train.average_decay = 0.0
    config.optimizer.learning_rate = 0.2
    config.checkpoint.every_epochs = 5
    config.eval.every_epochs = 5
    config.eval.examples = 2000
    return config
