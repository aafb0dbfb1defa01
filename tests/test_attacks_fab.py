import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import attack as attacks
from jaxrobust.attacks import hyperplane, losses
from jaxrobust.attacks.fab import Fab

NORMS = ("linf", "l2", "l1")
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
SHAPE = (4, 4, 1)


def victims_of(logits_fn, images, radius=0.1, label=None):
    """The images with the model's own answers for labels."""
    labels = np.asarray(logits_fn(images)).argmax(-1) if label is None else np.full(len(images), label)
    keys = jax.random.split(jax.random.key(0), len(images))
    radius = np.broadcast_to(np.float32(radius), len(images))
    return attacks.Victims(jnp.asarray(images), jnp.asarray(labels), keys, jnp.asarray(radius))


def linear_model(classes, seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(np.prod(shape), classes)).astype(np.float32)
    b = rng.normal(size=classes).astype(np.float32) / 4 - 0.5 * w.sum(0)  # so that all classes occur in [0, 1]
    return w, b, lambda x: x.reshape(len(x), -1) @ w + b


def images_of(n, low=0.35, high=0.65, seed=1, shape=SHAPE):
    return np.random.default_rng(seed).uniform(low, high, size=(n, *shape)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(attack, logits_fn, victims, number=0):
    return attacks.run(attack, logits_fn, victims, number)


def check(attack, logits_fn, victims, state):
    """What holds of every state: the distance is that of an adversarial image, and decides the success in the ball."""
    images, labels, radius = (np.asarray(array) for array in (victims.images, victims.labels, victims.radius))
    found = np.isfinite(state.distance)
    answer = np.asarray(logits_fn(state.nearest)).argmax(-1)
    np.testing.assert_array_equal(answer != labels, found)
    move = np.asarray(state.nearest - images).reshape(len(images), -1)
    np.testing.assert_allclose(
        np.linalg.norm(move, ORDER[attack.norm], axis=1)[found], np.asarray(state.distance)[found], atol=1e-5
    )
    wrong = np.asarray(logits_fn(state.adversarial)).argmax(-1) != labels
    np.testing.assert_array_equal(wrong, np.asarray(state.distance) <= radius)
    assert (hyperplane.size(attack.norm, state.adversarial - images) <= radius).all()
    for image in (state.nearest, state.adversarial):
        assert 0 <= image.min() and image.max() <= 1
    assert all(np.isfinite(image).all() for image in (state.nearest, state.adversarial, state.iterate))


def exact_distances(norm, w, b, images, labels):
    """Of a linear model, to every class [B, C], by the dual norm; 0 to its own. The box is not considered."""
    logits = images.reshape(len(images), -1) @ w + b
    gaps = logits[np.arange(len(labels)), labels][:, None] - logits
    duals = np.linalg.norm(w[:, labels].T[:, :, None] - w[None], DUAL[norm], axis=1)
    return gaps / np.where(duals > 0, duals, 1)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_linear_model_meets_the_closed_form(norm, classes):
    """The distance is the least margin over the dual norm of the difference of the weights."""
    w, b, logits_fn = linear_model(classes)
    images = images_of(40)
    labels = np.asarray(logits_fn(images)).argmax(-1)
    exact = exact_distances(norm, w, b, images, labels)
    exact[np.arange(len(labels)), labels] = np.inf
    exact = exact.min(1)
    free = exact < 0.35  # no pixel can leave the box
    assert free.sum() >= 15
    # Radii around the exact distance, some of them close.
    radius = exact * np.resize([0.5, 0.99, 1.01, 2.0], len(images))
    victims = victims_of(logits_fn, images, radius)
    attack = Fab(norm, classes, iterations=20)
    state = run(attack, logits_fn, victims)
    check(attack, logits_fn, victims, state)
    np.testing.assert_allclose(np.asarray(state.distance)[free], exact[free], rtol=5e-3)
    assert (np.asarray(state.distance) >= exact * (1 - 1e-4)).all()
    np.testing.assert_array_equal((np.asarray(state.distance) <= radius)[free], (radius > exact)[free])


@pytest.mark.parametrize("norm", NORMS)
def test_each_run_goes_to_its_target(norm):
    classes, targets = 4, 3
    w, b, logits_fn = linear_model(classes)
    images = images_of(24)
    victims = victims_of(logits_fn, images)
    labels = np.asarray(victims.labels)
    exact = exact_distances(norm, w, b, images, labels)
    ranking = np.argsort(-np.asarray(logits_fn(images)), axis=1)[:, 1:]
    attack = Fab(norm, classes, iterations=15, targets=targets)
    assert attack.runs == targets
    rows, nearest_of_runs = np.arange(len(images)), []
    for number in range(targets):
        state = run(attack, logits_fn, victims, number)
        check(attack, logits_fn, victims, state)
        np.testing.assert_array_equal(state.target, ranking[:, number])
        to_target = exact[rows, ranking[:, number]]
        if norm == "linf":  # of l1 and l2 more pixels would be bounded by the box
            free = to_target < 0.35
            assert (np.asarray(state.distance)[free] <= 1.005 * to_target[free]).all()
        arrived = np.asarray(logits_fn(state.nearest)).argmax(-1) == ranking[:, number]
        # Elsewhere another class lies on the way.
        assert arrived[to_target <= exact[rows[:, None], ranking].min(1)].all()
        assert arrived.mean() > 0.5
        nearest_of_runs.append(np.asarray(state.distance))
    untargeted = run(Fab(norm, classes, iterations=15), logits_fn, victims).distance
    np.testing.assert_allclose(np.min(nearest_of_runs, axis=0), untargeted, rtol=0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_box_is_respected_and_exploited(norm):
    """Images at the edges of the box: the exact distance is that of a nearest point on the plane inside the box."""
    w, b, logits_fn = linear_model(2)
    images = np.round(images_of(40, low=0.2, high=0.8, seed=2))  # 0 and 1 only
    victims = victims_of(logits_fn, images)
    logits, labels = np.asarray(logits_fn(images)), np.asarray(victims.labels)
    value = logits[np.arange(40), 1 - labels] - logits[np.arange(40), labels]
    normal = (w[:, 1 - labels] - w[:, labels]).T.reshape(images.shape)
    exact = hyperplane.size(norm, hyperplane.displacement(norm, images, normal, value))
    attack = Fab(norm, 2, iterations=30)
    state = run(attack, logits_fn, victims)
    check(attack, logits_fn, victims, state)
    np.testing.assert_allclose(state.distance, exact, rtol=0.01)


def test_two_layer_model_against_all_points_of_a_grid():
    """Three pixels: the nearest misclassified point of a fine grid is the answer up to the grid's width."""
    rng = np.random.default_rng(3)
    shape, classes, ticks = (3, 1, 1), 3, 61
    first, second = rng.normal(size=(3, 12)).astype(np.float32), rng.normal(size=(12, classes)).astype(np.float32)

    def logits_fn(x):
        return jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ first + 0.1) @ second

    grid = np.array(list(itertools.product(np.linspace(0, 1, ticks), repeat=3)), np.float32)
    answers = np.asarray(logits_fn(grid.reshape(-1, *shape))).argmax(-1)
    images = images_of(60, low=0.0, high=1.0, shape=shape)
    victims = victims_of(logits_fn, images)
    for norm in NORMS:
        attack = Fab(norm, classes, iterations=40)
        state = run(attack, logits_fn, victims)
        check(attack, logits_fn, victims, state)
        sizes = np.linalg.norm(images.reshape(-1, 1, 3) - grid[None], ORDER[norm], axis=2)
        sizes[answers[None] == np.asarray(victims.labels)[:, None]] = np.inf
        exact = sizes.min(1)
        # No grid point may be much nearer, and FAB may beat the grid by the distance to the next of its points only.
        step = 0.5 / (ticks - 1) * {"linf": 1, "l2": 3**0.5, "l1": 3}[norm]
        distance = np.asarray(state.distance)
        assert (distance >= exact - step - 1e-5).all()
        assert (distance <= 1.05 * exact).mean() >= 0.9
        assert np.isfinite(distance).all()


def wave(seed=0, classes=4):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(16, 20)).astype(np.float32)
    second = rng.normal(size=(20, classes)).astype(np.float32)
    return lambda x: jnp.tanh((x.reshape(len(x), -1) - 0.5) @ first) @ second


@pytest.mark.parametrize("targets", [0, 2])
def test_splitting_a_run_and_permuting_the_states_changes_nothing(targets):
    logits_fn = wave()
    victims = victims_of(logits_fn, images_of(12, 0.0, 1.0))
    attack = Fab("l2", 4, iterations=6, restarts=2, targets=targets)
    number = attack.runs - 1  # a restart: from a random point
    whole = run(attack, logits_fn, victims, number)
    start = jax.jit(lambda victims: attack.start(logits_fn, victims, number))
    step = jax.jit(lambda victims, state, iteration: attack.step(logits_fn, victims, state, iteration))
    order, state = np.arange(12), start(victims)
    for iteration in range(6):
        shuffle = np.random.default_rng(iteration).permutation(12)
        order = order[shuffle]
        victims, state = jax.tree.map(lambda array: array[shuffle], (victims, state))  # noqa: B023
        state = step(victims, state, iteration)
    for one, other in zip(state, whole, strict=True):
        np.testing.assert_allclose(one, other[order], rtol=1e-4, atol=1e-5)
    alone = jax.tree.map(lambda array: array[:1], victims)
    np.testing.assert_allclose(run(attack, logits_fn, alone, number).distance[0], state.distance[0], rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_begin_half_a_radius_away(norm):
    logits_fn = wave()
    images = images_of(6)
    victims = victims_of(logits_fn, images, radius=np.linspace(0.02, 0.2, 6))
    attack = Fab(norm, 4, iterations=5, restarts=3, targets=2)
    iterates = [attack.start(logits_fn, victims, number).iterate for number in range(attack.runs)]
    for iterate in iterates[:2]:  # one run towards each target from the image itself
        np.testing.assert_array_equal(iterate, images)
    for iterate in iterates[2:]:
        np.testing.assert_allclose(hyperplane.size(norm, iterate - images), victims.radius / 2, rtol=1e-3)
    assert not np.array_equal(iterates[2], iterates[4])


@pytest.mark.parametrize("broken", ["killed", "nan", "tiny", "offset"])
def test_useless_gradients_leave_images_that_are_numbers(broken):
    w, b, linear = linear_model(3)

    @jax.custom_vjp
    def spoiled(logits):
        return logits

    spoiled.defvjp(lambda logits: (logits, None), lambda _, gradient: (gradient * jnp.nan,))
    logits_fn = {
        "killed": lambda x: jax.lax.stop_gradient(linear(x)),
        "nan": lambda x: spoiled(linear(x)),
        "tiny": lambda x: linear(x) * 1e-25,
        "offset": lambda x: linear(x) + 1e4,
    }[broken]
    images = images_of(12)
    victims = victims_of(logits_fn, images, radius=0.2)
    attack = Fab("linf", 3, iterations=8)
    state = run(attack, logits_fn, victims)
    check(attack, logits_fn, victims, state)
    if broken in ("killed", "nan"):
        np.testing.assert_array_equal(state.nearest, images)
        assert np.isinf(state.distance).all()
    else:
        expected = run(attack, linear, victims).distance
        np.testing.assert_allclose(state.distance, expected, rtol=0.03)


def test_misclassified_image_is_at_distance_zero():
    logits_fn = wave()
    images = images_of(5)
    victims = victims_of(logits_fn, images)
    victims = victims._replace(labels=(victims.labels + 1) % 4)
    state = run(Fab("linf", 4, iterations=3), logits_fn, victims)
    np.testing.assert_array_equal(state.distance, 0)
    np.testing.assert_array_equal(state.nearest, images)


def test_last_step_searches_the_segment():
    """The last step is never worse for it, and mostly better; the price is part of `step_passes`."""
    logits_fn = wave()
    victims = victims_of(logits_fn, images_of(20, 0.0, 1.0))
    with_search = run(Fab("linf", 4, iterations=4), logits_fn, victims)
    longer = Fab("linf", 4, iterations=100)
    state = longer.start(logits_fn, victims, 0)
    for iteration in range(4):
        state = longer.step(logits_fn, victims, state, iteration)
    assert (with_search.distance <= state.distance + 1e-6).all()
    assert (with_search.distance < 0.999 * state.distance).mean() > 0.5
    np.testing.assert_allclose(with_search.iterate, state.iterate, atol=1e-5)


@pytest.mark.parametrize("targets", [0, 2])
def test_passes_are_those_that_the_program_makes(targets):
    """Counted by a model that reports its calls: forward on each call, backward on each pull-back."""
    calls = {"forward": 0, "backward": 0}

    def count(kind):
        jax.debug.callback(lambda: calls.update({kind: calls[kind] + 1}))

    w, b, linear = linear_model(4)

    @jax.custom_vjp
    def counted(x):
        count("forward")
        return linear(x)

    def forward(x):
        count("forward")
        return jax.vjp(linear, x)

    def backward(pull_back, gradient):
        count("backward")
        return pull_back(gradient)

    counted.defvjp(forward, backward)
    attack = Fab("l2", 4, iterations=5, targets=targets)
    jax.block_until_ready(run(attack, counted, victims_of(linear, images_of(3))))
    jax.effects_barrier()
    expected = attack.start_passes + attack.iterations * attack.step_passes
    assert calls["forward"] + calls["backward"] == pytest.approx(expected)
    assert calls["backward"] == attack.iterations * (1 if targets else 3)


def test_bad_settings_are_refused():
    for settings in ({"norm": "l3"}, {"classes": 1}, {"iterations": 0}, {"restarts": 0}, {"targets": 3}):
        with pytest.raises(ValueError):
            Fab(**{"norm": "linf", "classes": 3} | settings)
    logits_fn = wave(classes=4)
    with pytest.raises(ValueError, match="4 classes"):
        Fab("linf", 3).start(logits_fn, victims_of(logits_fn, images_of(2)), 0)


def test_success_in_the_ball_has_the_largest_margin_met():
    """So that a judge of another precision agrees: the nearest image lies at the boundary."""
    logits_fn = wave()
    victims = victims_of(logits_fn, images_of(20, 0.0, 1.0), radius=0.3)
    state = run(Fab("linf", 4, iterations=10), logits_fn, victims)
    margins = losses.margin(logits_fn(state.adversarial), victims.labels)
    np.testing.assert_allclose(margins, state.score, atol=1e-5)
    inside = np.asarray(state.distance) <= 0.3
    assert inside.sum() > 5
    assert (np.asarray(state.score) >= np.asarray(state.nearest_margin))[inside].all()
    assert (np.asarray(state.score) > 3 * np.asarray(state.nearest_margin))[inside].mean() > 0.5
