import functools

import jax
import jax.numpy as jnp
import numpy as np
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

from jaxrobust.attacks import attack as attacks, losses, square
from jaxrobust.attacks.square import Square

RADII = {"linf": 0.1, "l2": 0.6, "l1": 1.5}


def sizes(perturbation, norm):
    return np.linalg.norm(np.asarray(perturbation, np.float64).reshape(len(perturbation), -1), ORDER[norm], axis=1)


def started(attack, logits_fn, examples):
    return jax.jit(functools.partial(attack.start, logits_fn))(examples, 0).adversarial


def trajectory(attack, logits_fn, examples):
    """All states of a run, the start first: arrays [1 + iterations, B, ...]."""

    def step(state, iteration):
        state = attack.step(logits_fn, examples, state, iteration)
        return state, state

    @jax.jit
    def states():
        start = attack.start(logits_fn, examples, 0)
        rest = jax.lax.scan(step, start, jnp.arange(attack.iterations))[1]
        return jax.tree.map(lambda first, later: jnp.concatenate([first[None], later]), start, rest)

    return jax.device_get(states())


def test_windows_shrink_by_the_schedule():
    attack = Square("linf")
    levels = {0: 0, 10: 0, 11: 1, 50: 1, 51: 2, 200: 2, 201: 3, 501: 4, 1000: 4, 1001: 5, 2001: 6, 4000: 6, 4001: 7}
    levels |= {6001: 8, 8000: 8, 8001: 9}
    for iteration, level in levels.items():
        assert attack.level(iteration) == level
    stretched = Square("linf", iterations=1000, rescale_schedule=True)
    assert [int(stretched.level(iteration)) for iteration in (1, 2, 5, 6, 800, 801)] == [0, 1, 1, 2, 8, 9]
    assert attack.sides(28, 28) == (25, 18, 13, 9, 6, 4, 3, 2, 2, 1)
    assert Square("l2").sides(28, 28) == (25, 19, 13, 9, 7, 5, 3, 3, 3, 3)
    assert Square("l2").sides(32, 32)[:3] == (29, 21, 15)
    assert attack.sides(4, 40) == (4, 4, 4, 4, 3, 2, 1, 1, 1, 1)  # a window fits in the image
    assert set(Square("l1").sides(2, 2)) == {2}


def pyramid(height, width):
    """Squares about the pixel (height // 2, width // 2), one within the next, number m adds 1/m^2; of L2 norm 1."""
    values = np.zeros((height, width))
    row, column = height // 2, width // 2
    for m in range(1, max(row, column) + 2):
        above, left = max(row - m + 1, 0), max(column - m + 1, 0)
        values[above : row + m, left : column + m] += 1 / m**2
    return values / np.linalg.norm(values)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8, 13])
def test_a_pattern_is_two_pyramids_of_opposite_sign(side):
    halves = [pyramid(side // 2, side)] if side > 1 else []
    expected = np.concatenate([*halves, -pyramid(side - side // 2, side)])
    expected /= np.linalg.norm(expected)
    factors = square.pattern_factors(side)
    scale, half, whole = factors
    np.testing.assert_allclose(scale[:, None] * np.minimum(half[:, None], whole), expected, atol=1e-12)

    padded = jnp.asarray(np.pad(factors, ((0, 0), (0, 4))), jnp.float32)
    corner = jnp.array([2, 0]), jnp.array([1, 3])
    placed = square.placed_pattern(corner, jnp.array([[False], [True]]), (15, 17), side, padded)
    by_hand = np.zeros((2, 15, 17, 1))
    by_hand[0, 2 : 2 + side, 1 : 1 + side, 0] = expected
    by_hand[1, 0:side, 3 : 3 + side, 0] = expected.T
    np.testing.assert_allclose(placed, by_hand, atol=1e-6)


def test_stripes_have_the_full_radius():
    _, logits_fn = two_class_linear_model((5, 9, 3))
    examples = examples_of(logits_fn, images_of(16, (5, 9, 3), 0.2, 0.8), 0.1)
    delta = np.asarray(started(Square("linf"), logits_fn, examples) - examples.images)
    np.testing.assert_allclose(np.abs(delta), 0.1, atol=1e-6)
    signs = np.sign(delta)
    assert (signs == signs[:, :1]).all(), "a stripe is vertical"
    assert abs(signs[:, 0].mean()) < 0.2 and len(np.unique(signs[:, 0], axis=0)) == len(signs)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_patterns_start_with_the_full_radius(norm):
    _, logits_fn = two_class_linear_model((11, 13, 2))
    examples = examples_of(logits_fn, images_of(16, (11, 13, 2), 0.3, 0.7), RADII[norm])
    delta = started(Square(norm), logits_fn, examples) - examples.images
    np.testing.assert_allclose(sizes(delta, norm), RADII[norm], rtol=1e-5)


@pytest.mark.parametrize("norm", square.NORMS)
@pytest.mark.parametrize("shape", [(5, 9, 3), (2, 2, 1)])
def test_ball_box_and_margin(norm, shape):
    """Each state lies in both, knows the margin of its image, and is no better for the model than the one before."""
    logits_fn = smooth_model(shape)
    examples = examples_of(logits_fn, images_of(16, shape), RADII[norm])
    radius = examples.radius * jnp.linspace(0.2, 1.5, len(examples.radius))
    examples = examples._replace(radius=radius, images=examples.images.at[:4].set(examples.images[:4].round()))
    examples = examples._replace(labels=logits_fn(examples.images).argmax(1))
    states = trajectory(Square(norm, iterations=40, rescale_schedule=True), logits_fn, examples)
    for adversarial in states.adversarial:
        assert adversarial.min() >= 0 and adversarial.max() <= 1
        assert (sizes(adversarial - examples.images, norm) <= np.asarray(radius) * (1 + 1e-6) + 1e-7).all()
    for adversarial, margin in zip(states.adversarial[::10], states.margin[::10], strict=True):
        np.testing.assert_allclose(losses.margin(logits_fn(adversarial), examples.labels), margin, atol=1e-5)
    rise = np.diff(states.margin, axis=0)
    assert (rise >= 0).all() and (rise > 0).any()
    broken = states.margin[:-1] > 0
    unchanged = (states.adversarial[1:] == states.adversarial[:-1]).all((2, 3, 4))
    assert not unchanged[broken].all(), "what is broken goes on: a judge of more digits may not agree"


@pytest.mark.parametrize("norm, factor", [("linf", 1.1), ("l2", 2.0), ("l1", 4.0)])
def test_linear_model_breaks_where_it_can(norm, factor):
    """The smallest perturbation that breaks a linear model is its margin by the dual norm of its weights."""
    shape = (4, 5, 1)
    w, logits_fn = two_class_linear_model(shape)
    examples = examples_of(logits_fn, images_of(32, shape, 0.47, 0.53), 1.0)
    smallest = np.abs((np.asarray(examples.images).reshape(32, -1) - 0.5) @ w) / np.linalg.norm(w, DUAL_ORDER[norm])
    radius = np.concatenate([0.99 * smallest[:16], factor * smallest[16:]]).astype(np.float32)
    attack = Square(norm, iterations=400, rescale_schedule=True)
    state = run(attack, logits_fn, examples._replace(radius=jnp.array(radius)))
    np.testing.assert_array_equal(state.is_adversarial, np.arange(32) >= 16)


def test_a_window_always_changes_something():
    """An edge of the ball that the window is at already would be a query for nothing."""
    shape = (6, 6, 1)
    _, logits_fn = two_class_linear_model(shape)
    examples = examples_of(logits_fn, images_of(200, shape, 0.2, 0.8), 0.1)
    adversarial = examples.images + 0.1
    proposal = jax.jit(square.edge_of_the_ball)(examples.keys, examples, adversarial, 2)
    assert ((proposal != adversarial).sum((1, 2, 3)) == 4).all()
    np.testing.assert_allclose(jnp.abs(proposal - examples.images), 0.1, atol=1e-6)


@pytest.mark.parametrize("radius", [0.5, 2.0, 50.0])
def test_the_l1_projection_is_the_nearest_point(radius):
    """No point of ball and box lies further towards what was projected (the variational inequality)."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(20, 4, 5, 1)).astype(np.float32)
    far = rng.normal(size=images.shape).astype(np.float32) * rng.uniform(0.1, 2, size=(20, 1, 1, 1)).astype(np.float32)
    examples = attacks.Examples(jnp.array(images), None, None, jnp.full(20, radius))
    nearest = np.asarray(square.l1_into(examples, jnp.array(far)))
    for x, y, z in zip(images.reshape(20, -1), (images + far).reshape(20, -1), nearest.reshape(20, -1), strict=True):
        assert z.min() >= 0 and z.max() <= 1 and np.abs(z - x).sum() <= radius * (1 + 1e-6)
        gain = (y - z).astype(np.float64)
        room = np.where(gain > 0, 1 - x, x)
        left, best = radius, gain @ x
        for i in np.argsort(-np.abs(gain)):  # the linear programme over ball and box is a knapsack
            taken = min(room[i], left)
            best, left = best + np.abs(gain[i]) * taken, left - taken
        assert gain @ z >= best - 1e-4


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_gradient_is_needed(norm):
    shape = (6, 6, 1)
    model = smooth_model(shape)

    def killed(x):
        return model(jax.lax.stop_gradient(jnp.round(x * 50) / 50))

    examples = examples_of(killed, images_of(16, shape), 2 * RADII[norm])
    state = run(Square(norm, iterations=100, rescale_schedule=True), killed, examples)
    assert (killed(state.adversarial).argmax(1) != examples.labels).mean() > 0.8


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_states_can_be_regrouped_between_steps(norm):
    shape = (6, 5, 2)
    logits_fn = smooth_model(shape)
    examples = examples_of(logits_fn, images_of(8, shape), RADII[norm] / 4)
    assert_regrouping_changes_nothing(Square(norm, iterations=60), logits_fn, examples, 30, atol=1e-6)


def test_a_model_that_is_no_number_is_broken():
    shape = (4, 4, 1)
    _, logits_fn = two_class_linear_model(shape)
    examples = examples_of(logits_fn, images_of(16, shape, 0.3, 0.7), 1e-3)

    def half_broken(x):
        return jnp.where((x[:, 0, 0] > examples.images[:, 0, 0]), jnp.nan, logits_fn(x))

    attack = Square("linf", iterations=60, rescale_schedule=True)
    state = run(attack, half_broken, examples)
    assert jnp.isnan(half_broken(state.adversarial)).all(1).mean() > 0.9


def test_budget_and_its_errors():
    attack = Square("l2", restarts=3)
    assert (attack.runs, attack.iterations, attack.start_passes, attack.step_passes) == (3, 5000, 1, 1)
    with pytest.raises(ValueError, match="norm 'l3'"):
        Square("l3")
    with pytest.raises(ValueError, match="p_init"):
        Square("linf", p_init=1.5)
