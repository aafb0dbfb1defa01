import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_models import DUAL_ORDER, images_of, smooth_model, two_class_linear_model

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Pgd
from jaxrobust.training import step as step_lib

SHAPE = (4, 4, 2)


def data(n=64, low=0.3, high=0.7, seed=1, classes=2):
    """Images far enough from the edges of the box that it does not matter, labels, one key each."""
    labels = np.random.default_rng(seed).integers(0, classes, n)
    return images_of(n, SHAPE, low, high, seed), labels, jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize("keep_worst", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("name", ["linf", "l2"])
def test_linear_model_meets_the_closed_form_worst_case(name, random_start, keep_worst):
    """The worst margin over a ball of radius e is the margin plus e times the dual norm of w, example by example.

    Steps that add up to twice the radius reach it from any start: for linf exactly, for l2 up to a turn on the sphere.
    """
    w, logits_fn = two_class_linear_model(SHAPE)
    images, labels, keys = data()
    radius = np.linspace(0.02, 0.2, len(images)).astype(np.float32)
    attack = Pgd(
        threats.NORMS[name],
        steps=40,
        start=threats.random_start if random_start else threats.at_image,
        keep_worst=keep_worst,
    )
    adversarial = attack(logits_fn, losses.cross_entropy, images, labels, keys, radius, radius / 4)
    sign = np.where(labels == 1, -1.0, 1.0)
    expected = sign * ((images.reshape(len(images), -1) - 0.5) @ w) + radius * np.linalg.norm(w, DUAL_ORDER[name])
    np.testing.assert_allclose(losses.margin(logits_fn(adversarial), labels), expected, rtol=1e-4, atol=2e-5)


def test_box_is_respected_and_exploited():
    """Near the edges of the box the linf worst case is the nearer of ball and box, coordinate by coordinate."""
    w, logits_fn = two_class_linear_model(SHAPE)
    images, labels, keys = data(low=0.0, high=1.0)
    radius = np.full(len(images), 0.25, np.float32)
    attack = Pgd(threats.NORMS["linf"], steps=20, start=threats.at_image)
    adversarial = attack(logits_fn, losses.cross_entropy, images, labels, keys, radius, radius / 4)
    push = np.where(labels == 1, -1.0, 1.0)[:, None, None, None] * np.sign(w).reshape(SHAPE)
    np.testing.assert_allclose(adversarial, np.clip(images + 0.25 * push, 0, 1), atol=1e-6)


def test_against_a_plain_loop():
    """The last iterate is that of a loop written out in numpy, from the same start."""
    logits_fn = smooth_model(SHAPE, classes=5)
    images, labels, keys = data(classes=5)
    radius, step = np.full(len(images), 0.1, np.float32), np.full(len(images), 0.03, np.float32)
    attack = Pgd(threats.NORMS["linf"], steps=7)
    adversarial = attack(logits_fn, losses.cross_entropy, images, labels, keys, radius, step)
    start_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
    x = np.asarray(threats.random_start(threats.NORMS["linf"], start_keys, images, radius))
    for _ in range(7):
        gradient = jax.grad(lambda x: losses.cross_entropy(logits_fn(x), labels).sum())(x)
        x = np.clip(np.clip(x + 0.03 * np.sign(gradient), images - 0.1, images + 0.1), 0, 1)
    np.testing.assert_allclose(adversarial, x, atol=1e-6)


def test_worst_iterate_is_no_weaker_than_any_iterate():
    logits_fn = smooth_model(SHAPE, classes=5, seed=3)
    images, labels, keys = data(n=200, classes=5)
    radius, step = np.full(200, 0.3, np.float32), np.full(200, 0.25, np.float32)  # large steps that overshoot
    margin = lambda x: np.asarray(losses.margin(logits_fn(x), labels))  # noqa: E731
    worst = Pgd(threats.NORMS["linf"], steps=6, keep_worst=True)
    worst = margin(worst(logits_fn, losses.cross_entropy, images, labels, keys, radius, step))
    last = [
        margin(Pgd(threats.NORMS["linf"], steps=k)(logits_fn, losses.cross_entropy, images, labels, keys, radius, step))
        for k in range(1, 7)
    ]
    assert (worst >= np.max([margin(images), *last], axis=0) - 1e-5).all()
    assert (last[-1] < worst - 1e-3).any(), "the steps were meant to overshoot"


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_model_that_is_no_number_somewhere_hides_nothing(restarts):
    """One iterate without numbers counts as broken, and does not keep the attack from taking the others."""
    _, logits_fn = two_class_linear_model(SHAPE)
    images, labels, keys = data(n=200)
    radius = np.full(200, 0.1, np.float32)

    def half_broken(x):
        logits = logits_fn(x)
        return jnp.where(jnp.abs(x - images).max((1, 2, 3))[:, None] > 0.09, jnp.nan, logits)

    attack = Pgd(threats.NORMS["linf"], steps=5, restarts=restarts, keep_worst=True)
    adversarial = attack(half_broken, losses.cross_entropy, images, labels, keys, radius, radius / 4)
    assert jnp.isnan(half_broken(adversarial)).all(-1).mean() > 0.9


def test_restarts_only_add():
    logits_fn = smooth_model(SHAPE, classes=5, seed=4)
    images, labels, keys = data(n=200, classes=5)
    radius, step = np.full(200, 0.1, np.float32), np.full(200, 0.05, np.float32)
    margins = []
    for restarts in (1, 5):
        attack = Pgd(threats.NORMS["linf"], steps=2, restarts=restarts, keep_worst=True)
        adversarial = attack(logits_fn, losses.margin, images, labels, keys, radius, step)
        assert np.abs(adversarial - images).max() <= 0.1 + 1e-6
        margins.append(np.asarray(losses.margin(logits_fn(adversarial), labels)))
    assert (margins[1] >= margins[0] - 1e-5).all() and (margins[1] > margins[0] + 1e-3).any()


@pytest.mark.parametrize("keep_worst", [False, True])
def test_verdict_of_an_example_does_not_depend_on_its_batch(keep_worst):
    logits_fn = smooth_model(SHAPE, classes=5)
    images, labels, keys = data(classes=5)
    radius = np.full(len(images), 0.1, np.float32)
    attack = Pgd(threats.NORMS["linf"], steps=5, keep_worst=keep_worst)
    run = lambda s: attack(logits_fn, losses.margin, images[s], labels[s], keys[s], radius[s], radius[s] / 4)  # noqa: E731
    np.testing.assert_allclose(run(slice(None))[10:20], run(slice(10, 20)), atol=1e-6)


def test_no_gradient_flows_through_the_attack():
    logits_fn = smooth_model(SHAPE, classes=5)
    images, labels, keys = data(n=4, classes=5)

    def total(scale):
        attack = Pgd(threats.NORMS["linf"], steps=2)
        radius = jnp.full(4, 0.1)
        adversarial = attack(lambda x: scale * logits_fn(x), losses.margin, images, labels, keys, radius, radius)
        return adversarial.sum()

    assert jax.grad(total)(1.0) == 0.0


def test_restarts_without_keeping_the_worst_are_refused():
    with pytest.raises(ValueError, match="keep_worst"):
        Pgd(threats.NORMS["linf"], steps=2, restarts=3)


def test_no_start_draws_from_the_key_of_the_targets():
    """fair_tat draws its targets from the same keys: a start with the same random bits would depend on the target."""
    _, logits_fn = two_class_linear_model(SHAPE)
    images, labels, keys = data(n=4)
    drawn = []

    def start(norm, keys, images, radius):
        jax.debug.callback(lambda keys: drawn.append(np.asarray(keys)), jax.random.key_data(keys), ordered=True)
        return images

    radius = jnp.full(4, 0.1)
    attack = Pgd(threats.NORMS["linf"], steps=1, restarts=4, start=start, keep_worst=True)
    attack(logits_fn, losses.margin, jnp.asarray(images), jnp.asarray(labels), keys, radius, radius)
    jax.effects_barrier()
    assert len({key.tobytes() for key in drawn}) == len(drawn) == 4
    np.testing.assert_array_equal(drawn[0], jax.random.key_data(jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)))

    of_targets = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    target_logit = jnp.zeros(50)
    logits = jnp.where(jnp.arange(50)[None] == labels[:, None], -jnp.inf, 0.0)
    expected = jax.vmap(jax.random.categorical)(of_targets, logits)
    np.testing.assert_array_equal(step_lib.draw_targets(keys, target_logit, jnp.asarray(labels)), expected)
    assert not any((key == jax.random.key_data(of_targets)).all(-1).any() for key in drawn)
