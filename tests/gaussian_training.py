"""A linear model on Gaussian mixtures: trained by the project's own steps and remedies, and what theory says of it.

With two classes N(-eta, 1), N(+eta, K^2) in d dimensions, f(x) = a t + b with t = 1.x / sqrt(d), and an Linf radius e,
t under the worst case is N(+-m, .) with m = sqrt(d) (eta - e). Population losses of (a, b) are found by Gauss-Hermite
quadrature; class errors follow from the intercept c = b / a. Radii are in the units of tables with eta = 0.1 and
d = 100, where m = 1 - radius / 0.1.
"""

from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import optimize, stats

from jaxrobust import config as config_lib
from jaxrobust.config import objects
from jaxrobust.data import Dataset, batches
from jaxrobust.distributed import parallel
from jaxrobust.training import setup as training_setup

DIMENSION, ETA = 4, 0.5  # sqrt(d) eta = 1, as in the tables
PIXELS_PER_UNIT = 0.03
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def margin_of(radius_01):
    """m of the tables."""
    return 1.0 - radius_01 / 0.1


def class_losses(ab, margins, spread):
    """Expected logistic losses of classes -1 and +1.

    Args:
        margins: of the two classes, after the attack.
        spread: standard deviation of class +1, that of class -1 being 1.
    """
    return np.array([np.logaddexp(0, -f) @ WEIGHTS for f in _advantages(ab, margins, spread)])


def trades_losses(ab, shift, spread, beta, side):
    """Expected CE + beta KL of classes -1 and +1, where the attack moves t by `shift`, up or down.

    KL(p(f) || p(f + h)) grows with |h| on either side, and is the larger towards f = 0. An attack that climbs it from
    next to the image goes on to the side that it started on.

    Args:
        side: "worse" for the maximum of the two, "either" for their mean.
    """
    losses = []
    for f in _advantages(ab, (1.0, 1.0), spread):
        two = np.stack([_divergence(f, f + ab[0] * shift), _divergence(f, f - ab[0] * shift)])
        losses.append((np.logaddexp(0, -f) + beta * {"worse": two.max(0), "either": two.mean(0)}[side]) @ WEIGHTS)
    return np.array(losses)


def optimum(losses, share):
    """(a, b) that minimise (1 - share) losses(ab)[0] + share losses(ab)[1]."""
    return optimize.minimize(lambda ab: losses(ab) @ [1 - share, share], [1.0, 0.0], tol=1e-12).x


def logistic_optimum(m, spread, share):
    """(a, b) that minimise the expected logistic loss of a t + b.

    Args:
        m: margin after the attack, or one for each class.
        spread: standard deviation of class +1, that of class -1 being 1.
        share: of class +1 in the loss, by its prior, its weight or both; the rest is class -1's.
    """
    return optimum(lambda ab: class_losses(ab, np.broadcast_to(m, 2), spread), share)


def intercept(ab):
    """c = b / a."""
    return ab[1] / ab[0]


def class_errors(c, m, spread):
    """Errors of classes -1 and +1 of the classifier with intercept c, at margin m."""
    return stats.norm.cdf([c - m, -(c + m) / spread])


def share_where(condition, optimum_at):
    """The share of class +1 at which condition(optimum_at(share)) = 0."""
    return optimize.brentq(lambda share: condition(optimum_at(share)), 0.3, 0.7, xtol=1e-10)


class Trained(NamedTuple):
    """A trained model, f(x) = w.x + b in the units of the mixture, with its config and data."""

    config: ConfigDict
    dataset: Dataset
    w: np.ndarray
    b: float

    @property
    def share(self):
        """Of class +1 in the training set that was drawn: of its prior, and so of an intercept, the largest noise."""
        return self.dataset.train.counts(2)[1] / len(self.dataset.train)

    @property
    def slope(self):
        """a, w projected on the direction of the means."""
        return self.w.sum() / np.sqrt(DIMENSION)

    @property
    def intercept(self):
        """c = b / a."""
        return self.b / self.slope

    def errors(self, stddevs, radius_01):
        """Exact errors of the two classes under the worst case: f is normal, lowered by radius ||w||_1."""
        signs, radius = np.array([-1, 1]), radius_01 * ETA / 0.1
        means = ETA * self.w.sum() + signs * self.b - radius * np.abs(self.w).sum()
        return stats.norm.cdf(-means / (np.asarray(stddevs) * np.linalg.norm(self.w)))


def train(
    radius_01, stddevs=(1.0, 2.0), priors=(0.5, 0.5), *, objective="pgd_at", epochs=10, batch_size=4000, **fields
):
    """A linear model trained to convergence; at the end of each epoch the remedy sees what it observes, as in training.

    Args:
        fields: of the config, in place of what is set here, their dots written __.
    """
    config = config_lib.default()
    radius = radius_01 * ETA / 0.1 * PIXELS_PER_UNIT
    values = {
        "data.name": "gaussians",
        "data.gaussians.dimension": DIMENSION,
        "data.gaussians.means": (-ETA, ETA),
        "data.gaussians.stddevs": stddevs,
        "data.gaussians.priors": priors,
        "data.gaussians.train_examples": 160_000,
        "data.gaussians.test_examples": 20_000,
        "data.gaussians.pixels_per_unit": PIXELS_PER_UNIT,
        "model.name": "linear",
        "model.mean": (0.5,),  # the model sees the mixture's own units
        "model.std": (PIXELS_PER_UNIT,),
        "threat.eps": radius,
        "attack.steps": 1,  # reaches the worst case of a linear model
        "attack.step_size": radius or 1.0,
        "attack.random_start": False,
        "objective.name": objective,
        "optimizer.learning_rate": 0.2,
        "optimizer.weight_decay": 0.0,
        "optimizer.schedule": "cosine",
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.average_decay": 0.0,
        "eval.batch_size": batch_size,
    }
    config.update_from_flattened_dict(values | {name.replace("__", "."): value for name, value in fields.items()})

    dataset, mesh = objects.dataset(config), parallel.make_mesh(jax.devices()[:1])
    steps = batches.steps_per_epoch(len(dataset.train), batch_size) * epochs
    training = training_setup.create(config, dataset, mesh, steps)
    state, train_steps = training.initial_state(), training.resident_steps()
    update, observer = jax.jit(training.remedy.update), training.observer()
    rows = dataset.train.images.reshape(len(dataset.train), -1)
    data = parallel.replicate((rows, dataset.train.labels), mesh)
    nothing_seen = jax.tree.map(np.zeros_like, jax.device_get(state.class_sums))
    for epoch in range(epochs):
        order = batches.epoch_order(
            dataset.train.labels,
            batch_size=batch_size,
            seed=config.train.seed,
            epoch=epoch,
            sampling=np.asarray(state.knobs.sampling),
        )
        indices = parallel.shard(order, mesh, parallel.SHARDED_STEPS)
        state, _ = train_steps(state, *data, indices, jax.random.key(config.train.seed))
        knobs, memory = update(observer(state.weights) if observer else state.class_sums, state.memory)
        state = state.replace(knobs=knobs, memory=memory, class_sums=parallel.replicate(nothing_seen, mesh))
    head = jax.device_get(state.weights.params["head"])
    w, b = head["kernel"][:, 1] - head["kernel"][:, 0], head["bias"][1] - head["bias"][0]
    return Trained(config, dataset, w, float(b))


def _advantages(ab, margins, spread):
    """At the nodes, f times the class, of classes -1 and +1: positive where it is classified correctly."""
    (a, b), (lower, upper) = ab, margins
    return -(a * (-lower + NODES) + b), a * (upper + spread * NODES) + b


def _sigmoid(f):
    return 1 / (1 + np.exp(-f))


def _divergence(f, g):
    """KL of the Bernoulli distributions with logits f and g."""
    return _sigmoid(f) * (f - g) + np.logaddexp(0, g) - np.logaddexp(0, f)
