"""A run of seconds that has what a long one has: batch norm, averaged weights, validation, several checkpoints."""

from jaxrobust.config import default


def get_config():
    config = default()
    config.data.validation_per_class = 10
    config.data.augment = ("flip",)
    config.model.name = "cnn"
    config.model.width = 4
    config.threat.eps_255 = 25.5
    config.attack.steps = 2
    config.optimizer.schedule = "cosine"
    config.train.epochs = 4
    config.train.batch_size = 64
    config.train.log_every_steps = 5
    config.train.steps_per_dispatch = 6  # a third of an epoch, so that there is one program; test_feeds.py has a rest
    config.train.average_decay = 0.9
    config.eval.attacks = ("clean", "pgd3")
    config.eval.batch_size = 136
    config.eval.every_epochs = 2
    config.checkpoint.every_epochs = 1
    return config
