"""PGD adversarial training of a PreAct ResNet-18 on CIFAR-100 at 8/255, with the schedule of configs/cifar10.py.

    python -m jaxrobust.main --config configs/cifar100.py

Cost as configs/cifar10.py. Expect, from published runs: clean 53 %, PGD-10 28 % right after the first drop of the
learning rate. With 100 test images per class, few images decide which class is the worst: use bottom-k and the
intervals.
"""

from jaxrobust.config import default


def get_config():
    config = default()
    config.data.name = "tfds:cifar100"
    config.data.validation_per_class = 20
    config.data.augment = ("crop", "flip")
    config.model.name = "preact_resnet18"
    config.model.dtype = "bfloat16"
    config.model.mean = (0.5071, 0.4866, 0.4409)
    config.model.std = (0.2673, 0.2564, 0.2762)
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
