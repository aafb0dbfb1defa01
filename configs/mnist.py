"""PGD adversarial training of LeNet-5 on MNIST at a radius of 0.3, the setting of Madry et al. 2018.

    python -m jaxrobust.main --config configs/mnist.py

Expect, from published runs of this setting: clean 98-99 %, PGD-40 93 %.
"""

from jaxrobust.config import default


def get_config():
    config = default()
    config.data.name = "tfds:mnist"
    config.data.validation_per_class = 100
    config.model.name = "lenet5"
    config.threat.eps_255 = 76.5  # 0.3
    config.attack.steps = 40
    config.attack.step_size_255 = 2.55  # 0.01
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.0
    config.optimizer.schedule = "constant"
    config.train.epochs = 60
    config.train.batch_size = 128
    config.eval.attacks = ("clean", "pgd40", "cw40")
    config.eval.step_size_255 = 2.55
    config.eval.every_epochs = 5
    config.checkpoint.every_epochs = 5
    return config
