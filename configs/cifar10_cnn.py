"""CIFAR-10 on a CPU in about an hour: the small CNN, PGD-5 adversarial training at 8/255, ten epochs.

    python -m jaxrobust.main --config configs/cifar10_cnn.py

Far from the accuracy of a ResNet (cifar10.py), but the order of the classes is the same.
"""

from configs import cifar10


def get_config():
    config = cifar10.get_config()
    config.model.name = "cnn"
    config.model.dtype = "float32"
    config.model.width = 32
    config.attack.steps = 5
    config.attack.step_size_255 = 2.5
    config.train.epochs = 10
    config.train.average_decay = 0.995
    config.optimizer.schedule = "one_cycle"
    config.checkpoint.keep = 0
    config.eval.attacks = ("clean", "pgd20")
    return config
