"""A linear classifier of four Gaussians on a line, whose robustness is known from theory; takes a few seconds.

python -m jaxrobust.main --config configs/gaussians.py
"""

from jaxrobust.config import default


def get_config():
    config = default()
    config.data.name = "gaussians"
    config.data.gaussians.dimension = 16
    config.data.gaussians.means = (-0.75, -0.125, 0.25, 1.0)
    config.data.gaussians.stddevs = (1.0, 1.0, 1.0, 1.0)
    config.data.gaussians.priors = (0.25, 0.25, 0.25, 0.25)
    config.data.gaussians.train_examples = 40_000
    config.data.gaussians.test_examples = 40_000
    config.model.name = "linear"
    config.model.mean = (0.5,)
    config.model.std = (0.04,)
    config.threat.eps = 0.06 * 0.04
    config.attack.steps = 4  # steps of a quarter of the radius: enough to reach the boundary of the ball
    config.attack.random_start = False
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 0.0
    config.optimizer.schedule = "cosine"
    config.train.epochs = 20
    config.train.batch_size = 512
    config.train.average_decay = 0.0
    config.eval.attacks = ("clean", "pgd10")
    config.eval.splits = ("test",)
    config.eval.every_epochs = 20
    config.checkpoint.every_epochs = 20
    return config
