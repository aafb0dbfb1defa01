"""PGD adversarial training of a PreAct ResNet-18 on SVHN at 8/255, steps of 1/255.

    python -m jaxrobust.main --config configs/svhn.py

There is no augmentation, since digits must not be mirrored. The classes are unbalanced in the training and test sets:
compare the average with the balanced accuracy. Expect, from published runs: clean 90 %, PGD-10 61 % at the best epoch.
"""

from jaxrobust.config import default


def get_config():
    config = default()
    config.data.name = "tfds:svhn_cropped"
    config.data.validation_per_class = 100
    config.model.name = "preact_resnet18"
    config.model.dtype = "bfloat16"
    config.model.mean = (0.5,)
    config.model.std = (0.5,)
    config.threat.eps_255 = 8.0
    config.attack.steps = 10
    config.attack.step_size_255 = 1.0
    config.train.epochs = 40
    config.train.batch_size = 128
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "piecewise"
    config.optimizer.milestones = (0.5, 0.75)
    config.checkpoint.every_epochs = 5
    config.eval.every_epochs = 5
    return config
