import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attack_models import (
    DUAL_ORDER,
    ORDER,
    assert_regrouping_changes_nothing,
    examples_of,
    images_of,
    run,
    smooth_model,
    two_class_linear_model,
)

from jaxrobust.attacks import losses
from jaxrobust.attacks.spsa import Spsa

SHAPE = (3, 4, 2)
RADII = {"linf": 0.1, "l2": 0.4}


def estimate(attack, logits_fn, examples):
    gradient = jax.jit(attack.gradient, static_argnums=0)
    return np.asarray(gradient(logits_fn, examples.labels, examples.keys, examples.images))


def test_the_estimate_on_a_linear_model():
    """There it is the mean over the directions v of v (v.w), and w on average."""
    w, logits_fn = two_class_linear_model(SHAPE)
    examples = examples_of(logits_fn, images_of(64, SHAPE), 0.1)
    sign = np.where(examples.labels == 1, -1.0, 1.0)[:, None]
    gradient = sign * estimate(Spsa("linf", samples=64), logits_fn, examples).reshape(64, -1)
    for key, found in zip(examples.keys[:3], gradient, strict=False):
        v = [jax.random.rademacher(jax.random.fold_in(key, i), SHAPE, jnp.float32).ravel() for i in range(32)]
        np.testing.assert_allclose(found, np.mean([direction * (direction @ w) for direction in v], axis=0), atol=1e-3)
    # Of 64 x 32 directions, an entry has a variance of (|w|^2 - w_i^2) / 2048.
    deviation = (gradient.mean(0) - w) / np.sqrt((np.square(w).sum() - np.square(w)) / 2048)
    assert np.abs(deviation).max() < 4 and 0.6 < deviation.std() < 1.5


def test_the_estimate_points_along_the_gradient():
    logits_fn = smooth_model(SHAPE)
    examples = examples_of(logits_fn, images_of(16, SHAPE), 0.1)
    gradient = jax.grad(lambda x: losses.margin(logits_fn(x), examples.labels).sum())(examples.images)
    found = estimate(Spsa("linf", samples=2048, delta=1e-3), logits_fn, examples)
    cosine = (found * gradient).sum((1, 2, 3)) / np.sqrt((found**2).sum((1, 2, 3)) * (gradient**2).sum((1, 2, 3)))
    assert cosine.min() > 0.95  # 1 / sqrt(1 + D / directions) = 0.988 where the model is linear


def test_groups_of_directions_only_bound_the_memory():
    logits_fn = smooth_model(SHAPE)
    examples = examples_of(logits_fn, images_of(16, SHAPE), 0.1)
    one, all_at_once = (
        estimate(Spsa("linf", samples=32, directions_at_once=group), logits_fn, examples) for group in (1, 16)
    )
    np.testing.assert_allclose(one, all_at_once, atol=1e-4)


def test_steps_are_those_of_adam():
    """Against optax, from the same estimates; a ball and a box that do not matter."""
    logits_fn = smooth_model(SHAPE)
    examples = examples_of(logits_fn, images_of(16, SHAPE, 0.4, 0.6), 0.3)
    attack = Spsa("linf", samples=32, learning_rate=0.005)
    start, step = (jax.jit(functools.partial(part, logits_fn)) for part in (attack.start, attack.step))
    state = start(examples, 0)
    state = state._replace(iterate=examples.images)
    iterate, optimizer = examples.images, optax.adam(0.005)
    memory = optimizer.init(iterate)
    for iteration in range(5):
        keys = jax.vmap(jax.random.fold_in, (0, None))(examples.keys, iteration + 1)
        gradient = estimate(attack, logits_fn, examples._replace(images=iterate, keys=keys))
        change, memory = optimizer.update(-gradient, memory)
        iterate = optax.apply_updates(iterate, change)
        state = step(examples, state, iteration)
        np.testing.assert_allclose(state.iterate, iterate, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ball_box_and_margin(norm):
    logits_fn = smooth_model(SHAPE)
    examples = examples_of(logits_fn, images_of(16, SHAPE), RADII[norm])
    examples = examples._replace(radius=examples.radius * jnp.linspace(0.2, 1.5, 16))
    attack = Spsa(norm, iterations=15, samples=16, learning_rate=0.03)

    @jax.jit
    def trajectory():
        def step(state, iteration):
            state = attack.step(logits_fn, examples, state, iteration)
            return state, state

        return jax.lax.scan(step, attack.start(logits_fn, examples, 0), jnp.arange(15))[1]

    states = jax.device_get(trajectory())
    for images in (*states.adversarial, *states.iterate):
        assert images.min() >= 0 and images.max() <= 1
        size = np.linalg.norm((images - np.asarray(examples.images)).reshape(16, -1), ORDER[norm], axis=1)
        assert (size <= np.asarray(examples.radius) * (1 + 1e-6) + 1e-7).all()
    for adversarial, margin in zip(states.adversarial, states.margin, strict=True):
        np.testing.assert_allclose(losses.margin(logits_fn(adversarial), examples.labels), margin, atol=1e-5)
    rise = np.diff(states.margin, axis=0)
    assert (rise >= 0).all() and (rise > 0).any()
    assert (rise[states.margin[:-1] > 0] > 0).any(), "what is broken goes on: a judge of more digits may not agree"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_model_breaks_where_it_can(norm):
    """The smallest perturbation that breaks a linear model is its margin by the dual norm of its weights."""
    w, logits_fn = two_class_linear_model(SHAPE)
    examples = examples_of(logits_fn, images_of(32, SHAPE, 0.47, 0.53), 1.0)
    smallest = np.abs((np.asarray(examples.images).reshape(32, -1) - 0.5) @ w) / np.linalg.norm(w, DUAL_ORDER[norm])
    radius = np.concatenate([0.99 * smallest[:16], 1.1 * smallest[16:]]).astype(np.float32)
    attack = Spsa(norm, iterations=60, samples=64, learning_rate=0.005)
    state = run(attack, logits_fn, examples._replace(radius=jnp.array(radius)))
    np.testing.assert_array_equal(state.is_adversarial, np.arange(32) >= 16)


def test_no_gradient_is_needed():
    model = smooth_model(SHAPE)

    def killed(x):
        return model(jax.lax.stop_gradient(jnp.round(x * 200) / 200))

    examples = examples_of(killed, images_of(16, SHAPE), 0.15)
    state = run(Spsa("linf", iterations=30, samples=32), killed, examples)
    assert (killed(state.adversarial).argmax(1) != examples.labels).mean() > 0.8


def test_a_model_that_is_no_number_is_broken():
    """No number at the end of the ball along the pixel that counts most; the sampled points there do no harm."""
    w, logits_fn = two_class_linear_model(SHAPE)
    pixel = (slice(None), *np.unravel_index(np.abs(w).argmax(), SHAPE))
    examples = examples_of(logits_fn, images_of(16, SHAPE, 0.3, 0.7), 0.01)
    examples = examples._replace(images=examples.images.at[pixel].set(0.5))
    examples = examples._replace(labels=logits_fn(examples.images).argmax(1))

    def half_broken(x):
        return jnp.where(jnp.abs(x[pixel] - 0.5)[:, None] > 0.0099, jnp.nan, logits_fn(x))

    attack = Spsa("linf", iterations=10, samples=16, delta=1e-4)
    state = run(attack, half_broken, examples)
    assert (state.margin > 0).all() and jnp.isfinite(state.iterate).all()
    assert jnp.isnan(half_broken(state.adversarial)).all(1).mean() > 0.5


def test_states_can_be_regrouped_between_steps():
    logits_fn = smooth_model(SHAPE)
    examples = examples_of(logits_fn, images_of(16, SHAPE), 0.05)
    assert_regrouping_changes_nothing(Spsa("linf", samples=16), logits_fn, examples, 10, atol=1e-4)


def test_budget_and_its_errors():
    attack = Spsa("l2", restarts=2)
    assert (attack.runs, attack.iterations, attack.start_passes, attack.step_passes) == (2, 100, 1, 129)
    with pytest.raises(ValueError, match="norm 'l1'"):
        Spsa("l1")
    with pytest.raises(ValueError, match="samples 20"):
        Spsa("linf", samples=20)
