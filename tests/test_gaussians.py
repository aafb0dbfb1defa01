"""Training to where theory says: a linear model on Gaussian mixtures, through the real train step and attacks.

With two classes N(-eta, sigma^2), N(+eta, K^2 sigma^2) in d dimensions, f(x) = a t + b with t = 1.x / (sqrt(d) sigma),
and an Linf radius e, t is N(+-m, .) with m = sqrt(d) (eta - e) / sigma. Cross-entropy is least where the expected
logistic loss over t is, found here by Gauss-Hermite quadrature; class errors follow from c = b / a (for the theory
of the 0-1 optimum see Xu et al. 2021).
"""

import jax
import numpy as np
import pytest
from scipy import optimize, stats

from jaxrobust import build, parallel
from jaxrobust import config as config_lib
from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Pgd
from jaxrobust.data import batches

DIMENSION, ETA = 4, 0.5  # sqrt(d) eta = 1, as in the tables
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def margin_of(radius_01):
    """m of the tables, whose radius is relative to eta = 0.1."""
    return 1.0 - radius_01 / 0.1


def logistic_optimum(m, spread, prior):
    """(a, b) that minimise the expected logistic loss of a t + b.

    Args:
        m: margin after the attack.
        spread: standard deviation of class +1, that of class -1 being 1.
        prior: probability of class +1.
    """

    def loss(ab):
        positive = np.logaddexp(0, -(ab[0] * (m + spread * NODES) + ab[1])) @ WEIGHTS
        negative = np.logaddexp(0, ab[0] * (-m + NODES) + ab[1]) @ WEIGHTS
        return prior * positive + (1 - prior) * negative

    return optimize.minimize(loss, [1.0, 0.0], tol=1e-12).x


def class_errors(c, m, spread):
    """Errors of classes -1 and +1 of the classifier with intercept c, at margin m."""
    return stats.norm.cdf([c - m, -(c + m) / spread])


@pytest.mark.parametrize(
    "radius, c, natural, robust",
    [
        (0.0, 0.130706, (0.192343, 0.285917), (0.192343, 0.285917)),
        (0.03, 0.057948, (0.173083, 0.298412), (0.260420, 0.352353)),
        (0.06, 0.013454, (0.161933, 0.306173), (0.349546, 0.418111)),
    ],
)
def test_quadrature_reproduces_the_derived_table(radius, c, natural, robust):
    """Unequal variances, K = 2: what the training below is compared with is itself right."""
    a, b = logistic_optimum(margin_of(radius), 2.0, 0.5)
    assert b / a == pytest.approx(c, abs=2e-6)
    np.testing.assert_allclose(class_errors(b / a, 1.0, 2.0), natural, atol=1e-6)
    np.testing.assert_allclose(class_errors(b / a, margin_of(radius), 2.0), robust, atol=1e-6)


@pytest.mark.parametrize("radius, natural", [(0.0, (0.42259, 0.03556)), (0.03, (0.55946, 0.01579))])
def test_quadrature_meets_the_closed_form_of_equal_variances(radius, natural):
    """Priors 1:5 and K = 1: c = ln 5 / (2 m)."""
    m = margin_of(radius)
    a, b = logistic_optimum(m, 1.0, 5 / 6)
    assert b / a == pytest.approx(np.log(5) / (2 * m), abs=1e-5) and a == pytest.approx(2 * m, abs=1e-4)
    np.testing.assert_allclose(class_errors(b / a, 1.0, 1.0), natural, atol=1e-5)


def train_linear(radius_01, stddevs, priors, objective):
    """A linear model trained by the project's own steps; the config, the data and the weights on pixels."""
    config = config_lib.default()
    config.data.name = "gaussians"
    config.data.gaussians.dimension = DIMENSION
    config.data.gaussians.means = (-ETA, ETA)
    config.data.gaussians.stddevs = stddevs
    config.data.gaussians.priors = priors
    config.data.gaussians.train_examples = 160_000
    config.data.gaussians.test_examples = 20_000
    config.data.gaussians.pixels_per_unit = 0.03
    config.model.name = "linear"
    config.model.mean, config.model.std = (0.5,), (0.03,)  # the model sees the mixture's own units
    config.threat.eps = radius_01 * ETA / 0.1 * 0.03
    config.attack.steps, config.attack.random_start = 1, False
    if radius_01:
        config.attack.step_size = config.threat.eps
    config.objective.name = objective
    config.optimizer.learning_rate = 0.2
    config.optimizer.weight_decay = 0.0
    config.optimizer.schedule = "cosine"
    config.train.epochs, config.train.batch_size, config.train.average_decay = 10, 4000, 0.0

    dataset, mesh = build.dataset(config), parallel.make_mesh(jax.devices()[:1])
    steps = batches.steps_per_epoch(len(dataset.train), config.train.batch_size) * config.train.epochs
    state = build.initial_state(config, dataset, mesh, steps)
    train_steps = build.train_steps(config, dataset, mesh, steps)
    rows = dataset.train.images.reshape(len(dataset.train), -1)
    data = parallel.replicate((rows, dataset.train.labels), mesh)
    for epoch in range(config.train.epochs):
        order = batches.epoch_order(
            dataset.train.labels, batch_size=config.train.batch_size, seed=0, epoch=epoch, sampling=np.ones(2)
        )
        indices = parallel.shard(order, mesh, parallel.SHARDED_STEPS)
        state, _ = train_steps(state, *data, indices, jax.random.key(0))
    head = jax.device_get(state.weights.params["head"])
    return config, dataset, head["kernel"][:, 1] - head["kernel"][:, 0], head["bias"][1] - head["bias"][0]


def error_of(w, b, sign, spread, radius):
    """Exact error of a class under the worst case of an Linf radius: f is normal, lowered by radius ||w||_1."""
    mean = sign * (sign * ETA * w.sum() + b) - radius * np.abs(w).sum()
    return stats.norm.cdf(-mean / (spread * np.linalg.norm(w)))


CASES = {
    "unequal variances, natural": (0.0, (1.0, 2.0), (0.5, 0.5), "standard"),
    "unequal variances, adversarial": (0.03, (1.0, 2.0), (0.5, 0.5), "pgd_at"),
    "unequal priors, natural": (0.0, (1.0, 1.0), (1 / 6, 5 / 6), "standard"),
    "unequal priors, adversarial": (0.03, (1.0, 1.0), (1 / 6, 5 / 6), "pgd_at"),
}


@pytest.mark.parametrize("case", CASES)
def test_training_reaches_the_class_errors_of_theory(case):
    """Class errors of the trained model, exact given its weights, against those of the population's optimum.

    What is left is the estimation error of four weights and an intercept from 160,000 examples: over six redraws of the
    data the standard deviation of a class error was at most 0.0024. The bound is a good three of them; what is told
    apart, natural from adversarial training, differs by 0.012 to 0.14.
    """
    radius_01, stddevs, priors, objective = CASES[case]
    _, _, w, b = train_linear(radius_01, stddevs, priors, objective)
    m = margin_of(radius_01)
    slope, intercept = logistic_optimum(m, stddevs[1], priors[1])
    radius = radius_01 * ETA / 0.1
    for attacked, margin in ((0.0, 1.0), (radius, m)):
        expected = class_errors(intercept / slope, margin, stddevs[1])
        actual = [error_of(w, b, sign, spread, attacked) for sign, spread in zip((-1, 1), stddevs, strict=True)]
        np.testing.assert_allclose(actual, expected, atol=0.008)


@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_is_the_closed_form_worst_case_example_by_example(random_start):
    """On the test set of a trained model: f at the attacked image is f lowered by radius ||w||_1, for every example."""
    config, dataset, w, b = train_linear(0.03, (1.0, 2.0), (0.5, 0.5), "pgd_at")
    radius = config_lib.radius(config)
    images, labels = dataset.test.images[:2000], dataset.test.labels[:2000]

    def f(x):
        return ((x.reshape(len(x), -1) - 0.5) / 0.03) @ w + b

    def logits_fn(x):
        value = f(x)
        return jax.numpy.stack([-value / 2, value / 2], axis=1)

    attack = Pgd(threats.NORMS["linf"], steps=10, random_start=random_start, keep_worst=True)
    size = np.full(len(images), radius, np.float32)
    keys = jax.random.split(jax.random.key(0), len(images))
    adversarial = attack(logits_fn, losses.cross_entropy, images, labels, keys, size, size / 4)
    sign = np.where(labels == 1, 1.0, -1.0)
    worst = sign * f(images) - radius / 0.03 * np.abs(w).sum()
    np.testing.assert_allclose(sign * f(np.asarray(adversarial)), worst, atol=2e-4)
    # And so the robust accuracy of each class is the closed form's, up to Monte Carlo error: four standard errors.
    for c, (side, spread) in enumerate(((-1, 1.0), (1, 2.0))):
        error = error_of(w, b, side, spread, radius / 0.03)
        count = (labels == c).sum()
        assert abs((worst[labels == c] < 0).mean() - error) < 4 * np.sqrt(error * (1 - error) / count)
