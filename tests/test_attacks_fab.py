import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_models import DUAL_ORDER, ORDER, examples_of, images_of, linear_model, run, smooth_model

from jaxrobust.attacks import hyperplane, losses, threats
from jaxrobust.attacks.fab import Fab

SHAPE = (4, 4, 1)


def check(attack, logits_fn, examples, state):
    """What holds of every state: the distance is that of an adversarial image, and decides the success in the ball."""
    images, labels, radius = (np.asarray(array) for array in (examples.images, examples.labels, examples.radius))
    found = np.isfinite(state.distance)
    answer = np.asarray(logits_fn(state.nearest)).argmax(-1)
    np.testing.assert_array_equal(answer != labels, found)
    move = np.asarray(state.nearest - images).reshape(len(images), -1)
    np.testing.assert_allclose(
        np.linalg.norm(move, ORDER[attack.norm], axis=1)[found], np.asarray(state.distance)[found], atol=1e-5
    )
    wrong = np.asarray(logits_fn(state.adversarial)).argmax(-1) != labels
    np.testing.assert_array_equal(wrong, np.asarray(state.distance) <= radius)
    assert (threats.NORMS[attack.norm].size(state.adversarial - images) <= radius).all()
    for image in (state.nearest, state.adversarial):
        assert image.min() >= 0 and image.max() <= 1
    assert all(np.isfinite(image).all() for image in (state.nearest, state.adversarial, state.iterate))


def exact_distances(norm, w, logits_fn, images, labels):
    """Of a linear model, to every class [B, C], by the dual norm; 0 to its own. The box is not considered."""
    logits = np.asarray(logits_fn(images))
    gaps = logits[np.arange(len(labels)), labels][:, None] - logits
    duals = np.linalg.norm(w[:, labels].T[:, :, None] - w[None], DUAL_ORDER[norm], axis=1)
    return gaps / np.where(duals > 0, duals, 1)


def exact_in_box(norm, w, logits_fn, images, labels, others):
    """Of a linear model, [B] to the others inside the box, and the difference of the logits [B] that is left there."""
    rows, logits = np.arange(len(images)), np.asarray(logits_fn(images))
    normal = (w[:, others] - w[:, labels]).T.reshape(images.shape)
    value = logits[rows, others] - logits[rows, labels]
    move = np.asarray(hyperplane.displacement(norm, images, normal, value))
    return np.asarray(threats.NORMS[norm].size(move)), value + (normal * move).reshape(len(images), -1).sum(1)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("norm, classes", [("linf", 5), ("l2", 5), ("l1", 5), ("l2", 2)])
def test_linear_model_meets_the_closed_form(norm, classes):
    """The distance is the least margin over the dual norm of the difference of the weights."""
    w, logits_fn = linear_model(SHAPE, classes)
    images = images_of(40, SHAPE, 0.35, 0.65)
    labels = np.asarray(logits_fn(images)).argmax(-1)
    exact = exact_distances(norm, w, logits_fn, images, labels)
    exact[np.arange(len(labels)), labels] = np.inf
    exact = exact.min(1)
    free = exact < 0.35  # no pixel can leave the box
    assert free.sum() >= 15
    # Radii around the exact distance, some of them close.
    radius = exact * np.resize([0.5, 0.99, 1.01, 2.0], len(images))
    examples = examples_of(logits_fn, images, radius)
    attack = Fab(norm, classes, iterations=20)
    state = run(attack, logits_fn, examples)
    check(attack, logits_fn, examples, state)
    np.testing.assert_allclose(np.asarray(state.distance)[free], exact[free], rtol=5e-3, atol=1e-6)
    assert (np.asarray(state.distance) >= exact * (1 - 1e-4)).all()
    np.testing.assert_array_equal((np.asarray(state.distance) <= radius)[free], (radius > exact)[free])


@pytest.mark.parametrize("norm", threats.NAMES)
def test_each_run_goes_to_its_target(norm):
    """Each wrong class has pixels of its own, so that no third class lies on the way to it."""
    classes, targets = 4, 3
    w = np.zeros((16, classes), np.float32)
    for wrong in (1, 2, 3):
        w[5 * wrong - 5 : 5 * wrong, wrong] = np.random.default_rng(wrong).normal(size=5)
    images = images_of(24, SHAPE, 0.35, 0.65)
    b = np.array([(images.reshape(24, -1) @ w).max() + 0.1, 0, 0, 0], np.float32)

    def logits_fn(x):
        return x.reshape(len(x), -1) @ w + b[None]

    examples = examples_of(logits_fn, images, radius=0.1)
    assert (examples.labels == 0).all()
    ranking = np.argsort(-np.asarray(logits_fn(images)), axis=1)[:, 1:]
    attack = Fab(norm, classes, iterations=15, targets=targets)
    assert attack.runs == targets
    for number in range(targets):
        state = run(attack, logits_fn, examples, number)
        check(attack, logits_fn, examples, state)
        np.testing.assert_array_equal(state.target, ranking[:, number])
        found = np.isfinite(state.distance)
        answer = np.asarray(logits_fn(state.nearest)).argmax(-1)
        np.testing.assert_array_equal(answer[found], ranking[found, number])
        exact, value = exact_in_box(norm, w, logits_fn, images, np.asarray(examples.labels), ranking[:, number])
        assert found.sum() >= 10
        np.testing.assert_allclose(np.asarray(state.distance)[found], exact[found], rtol=5e-3)
        np.testing.assert_array_equal(found, np.abs(value) < 1e-4)


@pytest.mark.parametrize("norm", threats.NAMES)
def test_box_is_respected_and_exploited(norm):
    """Images at the edges of the box: the exact distance is that of a nearest point on the plane inside the box."""
    w, logits_fn = linear_model(SHAPE, 2)
    images = np.round(images_of(40, SHAPE, 0.2, 0.8, seed=2))  # 0 and 1 only
    examples = examples_of(logits_fn, images, radius=0.1)
    labels = np.asarray(examples.labels)
    exact, _ = exact_in_box(norm, w, logits_fn, images, labels, 1 - labels)
    attack = Fab(norm, 2, iterations=30)
    state = run(attack, logits_fn, examples)
    check(attack, logits_fn, examples, state)
    np.testing.assert_allclose(state.distance, exact, rtol=0.01)


@pytest.mark.parametrize("norm", threats.NAMES)
def test_two_layer_model_against_all_points_of_a_grid(norm):
    """Two pixels: the nearest misclassified point of a fine grid is the answer up to the grid's width."""
    rng = np.random.default_rng(3)
    shape, classes, ticks = (2, 1, 1), 3, 401
    first, second = rng.normal(size=(2, 12)).astype(np.float32), rng.normal(size=(12, classes)).astype(np.float32)
    shift = rng.normal(size=12).astype(np.float32) / 4

    def hidden(x):
        return jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ first + shift[None])

    grid = np.array(list(itertools.product(np.linspace(0, 1, ticks), repeat=2)), np.float32)
    mean = np.asarray(hidden(grid)).mean(0)  # so that all classes occur

    def logits_fn(x):
        return (hidden(x) - mean[None]) @ second

    answers = np.asarray(logits_fn(grid)).argmax(-1)
    images = images_of(40, shape)
    examples = examples_of(logits_fn, images, radius=0.1)
    assert set(np.asarray(examples.labels).tolist()) == {0, 1, 2}
    attack = Fab(norm, classes, iterations=40)
    state = run(attack, logits_fn, examples)
    check(attack, logits_fn, examples, state)
    sizes = np.linalg.norm(images.reshape(-1, 1, 2) - grid[None], ORDER[norm], axis=2)
    sizes[answers[None] == np.asarray(examples.labels)[:, None]] = np.inf
    exact, distance = sizes.min(1), np.asarray(state.distance)
    assert np.isfinite(distance).all()
    assert (distance <= 1.05 * exact).mean() >= 0.9
    # The grid's answer is no less than the true one, and more by at most about a step.
    assert (distance >= 0.95 * exact - 2 / (ticks - 1)).all()


class Steps:
    """A restart of a targeted attack on a curved model: whole, and its compiled parts."""

    iterations, classes = 6, 4
    attack = Fab("l2", classes, iterations, restarts=2, targets=2)
    number = attack.runs - 1
    logits_fn = staticmethod(smooth_model(SHAPE, classes=classes))

    def __init__(self):
        self.examples = examples_of(self.logits_fn, images_of(20, SHAPE), radius=0.3)
        self.whole = run(self.attack, self.logits_fn, self.examples, self.number)
        self.start = jax.jit(lambda examples: self.attack.start(self.logits_fn, examples, self.number))
        self.step = jax.jit(
            lambda examples, state, iteration: self.attack.step(self.logits_fn, examples, state, iteration)
        )


@pytest.fixture(scope="module")
def steps():
    return Steps()


def test_splitting_a_run_and_permuting_the_states_changes_nothing(steps):
    examples = steps.examples
    order, state = np.arange(20), steps.start(examples)
    for iteration in range(steps.iterations):
        shuffle = np.random.default_rng(iteration).permutation(20)
        order = order[shuffle]
        examples, state = jax.tree.map(lambda array: array[shuffle], (examples, state))  # noqa: B023
        state = steps.step(examples, state, iteration)
    for one, other in zip(state, steps.whole, strict=True):
        np.testing.assert_allclose(one, other[order], rtol=1e-4, atol=1e-5)


def test_last_step_searches_the_segment(steps):
    """Taken as the last, the same step is never worse and mostly better."""
    state = steps.start(steps.examples)
    for iteration in range(4):
        state = steps.step(steps.examples, state, iteration)
    plain, searched = (steps.step(steps.examples, state, iteration) for iteration in (4, steps.iterations - 1))
    assert (searched.distance <= plain.distance).all()
    assert (searched.distance < 0.999 * plain.distance).mean() > 0.5
    np.testing.assert_array_equal(searched.iterate, plain.iterate)


def test_success_in_the_ball_has_the_largest_margin_met(steps):
    """So that a judge of another precision agrees: the nearest image lies at the boundary."""
    check(steps.attack, steps.logits_fn, steps.examples, steps.whole)
    margins = losses.margin(steps.logits_fn(steps.whole.adversarial), steps.examples.labels)
    np.testing.assert_allclose(margins, steps.whole.score, atol=1e-5)
    inside = np.asarray(steps.whole.distance) <= 0.3
    assert inside.sum() > 5
    at_boundary = np.asarray(losses.margin(steps.whole.nearest_logits, steps.examples.labels))[inside]
    largest = np.asarray(steps.whole.score)[inside]
    assert (largest >= at_boundary).all() and np.mean(largest > 3 * at_boundary) > 0.5


@pytest.mark.parametrize("norm", threats.NAMES)
def test_restarts_begin_half_a_radius_away(norm):
    logits_fn = smooth_model(SHAPE)
    images = images_of(6, SHAPE, 0.35, 0.65)
    examples = examples_of(logits_fn, images, radius=np.linspace(0.02, 0.2, 6))
    attack = Fab(norm, 4, iterations=5, restarts=3, targets=2)

    @jax.jit
    def start(number):
        keys = jax.vmap(jax.random.fold_in, (0, None))(examples.keys, number)
        return attack.start(logits_fn, examples._replace(keys=keys), number).iterate

    iterates = [start(number) for number in range(attack.runs)]
    for iterate in iterates[:2]:  # one run towards each target from the image itself
        np.testing.assert_array_equal(iterate, images)
    for iterate in iterates[2:]:
        np.testing.assert_allclose(threats.NORMS[norm].size(iterate - images), examples.radius / 2, rtol=1e-3)
    assert not np.array_equal(iterates[2], iterates[4])


@pytest.mark.parametrize("broken", ["killed", "nan", "tiny", "offset"])
def test_useless_gradients_leave_images_that_are_numbers(broken):
    w, linear = linear_model(SHAPE, 3)

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
    images = images_of(12, SHAPE, 0.35, 0.65)
    examples = examples_of(logits_fn, images, radius=0.2)
    attack = Fab("linf", 3, iterations=8)
    state = run(attack, logits_fn, examples)
    check(attack, logits_fn, examples, state)
    if broken in ("killed", "nan"):
        np.testing.assert_array_equal(state.nearest, images)
        assert np.isinf(state.distance).all()
    else:
        exact = exact_distances("linf", w, linear, images, np.asarray(examples.labels))
        expected = np.where(exact > 0, exact, np.inf).min(1)
        # Next to 1e4, logits are multiples of 1e-3.
        np.testing.assert_allclose(state.distance, expected, rtol=0.01, atol=1e-3 if broken == "offset" else 1e-6)


def test_misclassified_image_is_at_distance_zero(steps):
    examples = steps.examples._replace(labels=(steps.examples.labels + 1) % steps.classes)
    state = steps.start(examples)
    for iteration in (0, steps.iterations - 1):
        state = steps.step(examples, state, iteration)
    np.testing.assert_array_equal(state.distance, 0)
    np.testing.assert_array_equal(state.nearest, examples.images)


@pytest.mark.parametrize("targets", [0, 2])
def test_passes_are_those_that_the_program_makes(targets):
    """Counted by a model that reports its calls: forward on each call, backward on each pull-back."""
    calls = {"forward": 0, "backward": 0}

    def count(kind):
        jax.debug.callback(lambda: calls.update({kind: calls[kind] + 1}))

    _, linear = linear_model(SHAPE, 4)

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
    jax.block_until_ready(run(attack, counted, examples_of(linear, images_of(3, SHAPE, 0.35, 0.65), radius=0.1)))
    jax.effects_barrier()
    expected = attack.start_passes + attack.iterations * attack.step_passes
    assert calls["forward"] + calls["backward"] == pytest.approx(expected)
    assert calls["backward"] == attack.iterations * (1 if targets else 3)


def test_bad_settings_are_refused():
    for settings in ({"norm": "l3"}, {"classes": 1}, {"iterations": 0}, {"restarts": 0}, {"targets": 3}):
        with pytest.raises(ValueError):
            Fab(**{"norm": "linf", "classes": 3} | settings)
    logits_fn = smooth_model(SHAPE, classes=4)
    with pytest.raises(ValueError, match="4 classes"):
        Fab("linf", 3).start(logits_fn, examples_of(logits_fn, images_of(2, SHAPE, 0.35, 0.65), radius=0.1), 0)
