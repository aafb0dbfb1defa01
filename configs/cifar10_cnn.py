"""CIFAR-10 on a CPU in about an hour: the small CNN, PGD-5 adversarial training at 8/255, ten epochs.

    python -m jaxrobust.main --config configs/cifar10_cnn.py

Measured at 133 images/s on one x86-64 core: clean 57.5 %, PGD-20 33.2 %, the worst class (cat) 5.1 %.
Far from the accuracy of a ResNet (cifar10.py), but the weak classes are the same: cat, deer, bird, dog.
"""

from jaxrobust.config import default


def get_config():
    config = default()
    config.data.name = "tfds:cifar10"
    config.data.validation_per_class = 100
    config.data.augment = ("crop", "flip")
    config.model.name = "cnn"
    config.model.width = 32
    config.model.mean = (0.4914, 0.4822, 0.4465)
    config.model.std = (0.2471, 0.2435, 0.2616)
    config.threat.eps_255 = 8.0
    config.attack.steps = 5
    config.attack.step_size_255 = 2.5
    config.train.epochs = 10
    config.train.batch_size = 128
    config.train.average_decay = 0.995
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "one_cycle"
    config.checkpoint.every_epochs = 5
    config.eval.attacks = ("clean", "pgd20")
    config.eval.every_epochs = 5
    config.eval.batch_size = 128  # larger batches do not fit into a CPU's caches
    return config
