import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_models import (
    DUAL_ORDER,
    assert_regrouping_changes_nothing,
    examples_of,
    images_of,
    linear_model,
    rows,
    run,
    smooth_model,
)

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.apgd import Apgd, checkpoints
from jaxrobust.attacks.apgd_l1 import ApgdL1, project, schedule

SHAPE = (4, 4, 2)


def make(norm, loss="cross_entropy", targets=0, **settings):
    loss = (losses.TARGETED_LOSSES if targets else losses.LOSSES)[loss]
    if norm == "l1":
        return ApgdL1(loss, targets=targets, **settings)
    return Apgd(threats.NORMS[norm], loss, targets=targets, **settings)


@functools.partial(jax.jit, static_argnums=(0, 1))
def start(attack, logits_fn, examples, number=0):
    return attack.start(logits_fn, examples, number)


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(attack, logits_fn, examples, state, iteration):
    return attack.step(logits_fn, examples, state, iteration)


def minimal_radius(w, logits_fn, examples, dual):
    """Distance to the nearest wrong class of a linear model [B]; the box left out."""
    logits, labels = np.asarray(logits_fn(examples.images)), np.asarray(examples.labels)
    gap = logits[np.arange(len(labels)), labels][:, None] - logits
    slope = np.linalg.norm(w[:, labels].T[:, :, None] - w[None], dual, axis=1)
    return np.divide(gap, slope, out=np.full(gap.shape, np.inf), where=slope > 0).min(1)


def test_checkpoints_of_a_hundred_steps():
    """The shares 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of the paper."""
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]


@pytest.mark.parametrize("iterations", [1, 2, 7, 20, 1000])
def test_checkpoints_lie_in_the_run_and_add_up(iterations):
    result = checkpoints(iterations)
    assert list(result) == list(np.cumsum(list(result.values())))
    assert min(result) >= 1 and max(result) <= iterations


def test_schedule_of_l1():
    """30 + 30 + 40 steps in balls of 3, 2, 1 radii, and one iteration more to enter the second and the third."""
    factor, enter, _ = schedule(100)
    assert [int((factor == f).sum()) for f in (3, 2, 1)] == [30, 31, 41]
    assert list(np.flatnonzero(enter)) == [30, 61]
    assert all((np.bincount(schedule(n).factor.astype(int), minlength=4)[1:] >= 1).all() for n in range(5, 40))


@pytest.mark.parametrize(
    "norm, classes, loss, targets",
    [
        ("linf", 2, "cross_entropy", 0),
        ("linf", 6, "dlr", 5),
        ("l2", 2, "dlr", 1),
        ("l2", 6, "dlr", 5),
        ("l1", 2, "cross_entropy", 0),
        ("l1", 6, "dlr", 5),
    ],
)
def test_linear_model_breaks_exactly_where_the_closed_form_says(norm, classes, loss, targets):
    """At radii 2 % above and below the distance to the nearest class, where the box is too far to matter."""
    w, logits_fn = linear_model(SHAPE, classes)
    examples = examples_of(logits_fn, images_of(60, SHAPE, 0.45, 0.55), 0.0)
    distance = minimal_radius(w, logits_fn, examples, DUAL_ORDER[norm])
    keep = np.flatnonzero(distance < 0.4)
    assert len(keep) > 15
    attack = make(norm, loss, targets, **({"steps": 60} if norm == "l1" else {"iterations": 50}))
    assert attack.runs == max(targets, 1)
    for factor, expected in ((1.02, True), (0.98, False)):
        radius = jnp.asarray(factor * distance, jnp.float32)
        chosen = rows(examples._replace(radius=radius), keep)
        broken = np.zeros(len(keep), bool)
        for number in range(attack.runs):
            state = run(attack, logits_fn, chosen, number)
            size = threats.NORMS[norm].size(state.adversarial - chosen.images)
            assert (size <= chosen.radius + 1e-6).all()
            harmed = np.asarray(losses.margin(logits_fn(state.adversarial), chosen.labels))
            np.testing.assert_allclose(harmed, state.adversarial_margin, atol=1e-5)
            broken |= harmed > 0
        assert (broken == expected).all()


def greedy_l1(weights, image, radius):
    """Largest gain of a linear function over L1 ball and box: the best entries as far as the box lets them go."""
    room = np.where(weights > 0, 1 - image, image)
    order = np.argsort(-np.abs(weights))
    spent = np.minimum(np.cumsum(room[order]), radius)
    return (np.abs(weights[order]) * np.diff(spent, prepend=0)).sum()


def scaled_l2(weights, image, radius):
    """Largest gain over L2 ball and box: clip(t * w) to the box, with t from the radius by bisection."""
    low, high = 0.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        step = np.clip(image + middle * weights, 0, 1) - image
        low, high = (middle, high) if np.linalg.norm(step) <= radius else (low, middle)
    return weights @ (np.clip(image + low * weights, 0, 1) - image)


@pytest.mark.parametrize(
    "norm, radius, gain",
    [
        ("linf", 0.3, lambda w, x, e: w @ (np.clip(x + e * np.sign(w), 0, 1) - x)),
        ("l2", 1.2, scaled_l2),
        ("l1", 4.0, greedy_l1),
    ],
)
def test_worst_margin_of_a_linear_model_where_the_box_binds(norm, radius, gain):
    w, logits_fn = linear_model(SHAPE, classes=2)
    examples = examples_of(logits_fn, images_of(40, SHAPE), jnp.full(40, radius))
    state = run(make(norm, "margin"), logits_fn, examples)
    flat = np.asarray(examples.images, np.float64).reshape(40, -1)
    towards = (w[:, 1] - w[:, 0]) * np.where(examples.labels == 1, -1, 1)[:, None]
    gains = np.array([gain(*row, radius) for row in zip(towards, flat, strict=True)])
    clean = np.asarray(losses.margin(logits_fn(examples.images), examples.labels))
    assert (threats.NORMS[norm].size(state.adversarial - examples.images) <= radius + 2e-6).all()
    assert (np.asarray(state.adversarial_margin) <= clean + gains + 1e-4).all()
    assert (np.asarray(state.adversarial_margin) >= clean + 0.95 * gains).all()


def test_relu_model_against_all_vertices():
    """Six pixels, and a margin that is a sum of convex units: its largest value is at one of the 64 vertices."""
    rng = np.random.default_rng(3)
    first = rng.normal(size=(6, 12)).astype(np.float32)
    second = rng.uniform(0.2, 1.0, 12).astype(np.float32)
    radius = 0.1
    images = rng.uniform(0.2, 0.8, (200, 2, 3, 1)).astype(np.float32)
    vertices = radius * np.array(list(itertools.product((-1, 1), repeat=6)), np.float32)

    def convex(x):
        return jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ first) @ second

    around = convex((images.reshape(200, 1, 6) + vertices[None]).reshape(-1, 2, 3, 1)).reshape(200, 64).max(1)
    offset = jnp.median(around)
    correct = np.asarray(convex(images) < offset)

    def logits_fn(x):
        margin = convex(x) - offset
        return jnp.stack([-margin, margin], axis=1)

    worst = np.asarray(2 * (around - offset))[correct]
    examples = examples_of(logits_fn, images[correct], jnp.full(correct.sum(), radius))
    assert (examples.labels == 0).all()
    attack = make("linf", iterations=20, restarts=8)  # several, since a convex function may have several maxima
    margins = []
    for number in range(attack.runs):
        keys = jax.vmap(jax.random.fold_in, (0, None))(examples.keys, number)
        margins.append(run(attack, logits_fn, examples._replace(keys=keys), number).adversarial_margin)
    margins = np.max(margins, axis=0)
    assert 0.2 < (worst > 0).mean() < 0.8
    np.testing.assert_array_equal(margins > 0, worst > 0)
    assert (margins <= worst + 1e-4).all()


SHORT = {
    "linf": (make("linf", "dlr", iterations=14), jnp.linspace(0.02, 0.2, 24)),
    "l1": (make("l1", "dlr", targets=2, steps=12), jnp.linspace(0.2, 2, 24)),
}


def go_on(attack, logits_fn, examples, state, iterations):
    for iteration in iterations:
        state = step(attack, logits_fn, examples, state, iteration)
    return state


@pytest.mark.parametrize("norm", SHORT)
def test_states_may_be_split_and_regrouped_between_any_two_steps(norm):
    logits_fn = smooth_model(SHAPE, classes=5)
    attack, radius = SHORT[norm]
    examples = examples_of(logits_fn, images_of(24, SHAPE), radius)
    number = attack.runs - 1
    assert 0 < run(attack, logits_fn, examples, number).is_adversarial.sum() < 24
    assert_regrouping_changes_nothing(attack, logits_fn, examples, attack.iterations // 2, number=number, atol=1e-5)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("norm", SHORT)
def test_a_batch_of_one_equals_a_batch_of_many(norm):
    logits_fn = smooth_model(SHAPE, classes=5)
    attack, radius = SHORT[norm]
    examples = examples_of(logits_fn, images_of(24, SHAPE), radius)
    whole = go_on(attack, logits_fn, examples, start(attack, logits_fn, examples, 0), range(attack.iterations))
    for i in range(0, 24, 3):
        one = rows(examples, slice(i, i + 1))
        alone = go_on(attack, logits_fn, one, start(attack, logits_fn, one, 0), range(attack.iterations))
        np.testing.assert_allclose(alone.adversarial[0], whole.adversarial[i], atol=1e-5)
        assert (alone.adversarial_margin[0] > 0) == (whole.adversarial_margin[i] > 0)


def test_one_program_for_the_run_equals_step_by_step():
    logits_fn = smooth_model(SHAPE, classes=5)
    attack, radius = SHORT["linf"]
    examples = examples_of(logits_fn, images_of(24, SHAPE), radius)
    stepped = go_on(attack, logits_fn, examples, start(attack, logits_fn, examples, 0), range(attack.iterations))
    np.testing.assert_allclose(run(attack, logits_fn, examples).adversarial, stepped.adversarial, atol=1e-5)


def test_targets_are_the_likeliest_wrong_classes_in_turn():
    logits_fn = smooth_model(SHAPE, classes=5)
    examples = examples_of(logits_fn, images_of(10, SHAPE), jnp.full(10, 0.05))
    ranking = np.argsort(-np.asarray(logits_fn(examples.images)), axis=1)
    attack = make("linf", "dlr", targets=3, restarts=2)
    assert attack.runs == 6
    for number in range(6):
        state = start(attack, logits_fn, examples, number)
        np.testing.assert_array_equal(state.targets, ranking[:, 1 + number % 3])


def test_more_targets_than_wrong_classes_are_refused():
    logits_fn = smooth_model(SHAPE, classes=3)
    examples = examples_of(logits_fn, images_of(2, SHAPE), jnp.full(2, 0.05))
    with pytest.raises(ValueError, match="3 targets"):
        make("linf", "dlr", targets=3).start(logits_fn, examples, 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_start_is_on_the_surface_of_the_ball(norm):
    logits_fn = smooth_model(SHAPE, classes=5)
    examples = examples_of(logits_fn, images_of(50, SHAPE, 0.4, 0.6), jnp.linspace(0.1, 0.3, 50))
    state = start(make(norm), logits_fn, examples, 0)
    np.testing.assert_allclose(threats.NORMS[norm].size(state.previous - examples.images), examples.radius, rtol=1e-5)


def test_step_is_halved_and_goes_back_to_the_best_point():
    """On a loss that nothing raises every checkpoint halves the step, and the next one starts where the best was."""
    _, logits_fn = linear_model(SHAPE, classes=2)
    examples = examples_of(logits_fn, images_of(4, SHAPE, 0.4, 0.6), jnp.full(4, 0.1))
    attack = make("linf", "margin", iterations=100)
    state = start(attack, logits_fn, examples, 0)
    expected = 0.2
    for iteration in range(100):
        state = step(attack, logits_fn, examples, state, iteration)
        if iteration + 1 in checkpoints(100):
            expected /= 2  # a vertex is reached by the second step, then no step raises a linear loss
            np.testing.assert_array_equal(state.point.images, state.best.images)
        np.testing.assert_allclose(state.step_size, expected, rtol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_model_that_is_no_number_somewhere_hides_nothing(norm):
    """Points without numbers count as broken, and a gradient without numbers moves nothing out of ball and box."""
    _, linear = linear_model(SHAPE, classes=2)
    examples = examples_of(linear, images_of(30, SHAPE, 0.3, 0.7), jnp.full(30, 0.1))

    def half_broken(x):
        far = jnp.abs(x - examples.images).max((1, 2, 3)) > 0.01
        return jnp.where(far[:, None], jnp.nan, linear(x))

    state = run(make(norm, **({"steps": 10} if norm == "l1" else {"iterations": 5})), half_broken, examples)
    assert jnp.isnan(half_broken(state.adversarial)).all()
    assert (threats.NORMS[norm].size(state.adversarial - examples.images) <= 0.1 + 1e-6).all()


def test_l1_stays_in_the_ball_until_the_end():
    """The larger balls of the first steps never show in `adversarial`."""
    logits_fn = smooth_model(SHAPE, classes=5)
    attack, radius = SHORT["l1"]
    examples = examples_of(logits_fn, images_of(24, SHAPE), radius)
    state = start(attack, logits_fn, examples, 0)
    for iteration in range(attack.iterations):
        state = step(attack, logits_fn, examples, state, iteration)
        assert (threats.NORMS["l1"].size(state.adversarial - examples.images) <= radius + 1e-6).all()


def test_projection_on_ball_and_box_has_the_multiplier_of_the_kkt_conditions():
    """The multiplier of each example, from all breakpoints of the piecewise linear dual in float64."""
    rng = np.random.default_rng(4)
    images = rng.uniform(size=(100, *SHAPE)).astype(np.float32)
    images[:20] = images[:20] > 0.5  # in the corners
    adversarial = images + rng.normal(size=images.shape).astype(np.float32) * rng.choice([0.01, 0.3, 3], (100, 1, 1, 1))
    radius = rng.uniform(0.1, 8, 100).astype(np.float32)
    result = np.asarray(jax.jit(project)(images, adversarial, radius))
    for x, y, e, z in zip(images, adversarial, radius, result, strict=True):
        x, y = x.ravel().astype(float), y.ravel().astype(float)
        size, room = np.abs(y - x), np.where(y > x, 1 - x, x)
        spent = lambda m: np.clip(size - m, 0, room).sum()  # noqa: E731, B023
        multiplier = 0.0
        if spent(0) > e:
            points = np.sort(np.maximum(np.concatenate([[0], size, size - room]), 0))
            i = np.flatnonzero([spent(p) >= e for p in points])[-1]
            multiplier = np.interp(-e, [-spent(points[i]), -spent(points[i + 1])], points[i : i + 2])
        expected = x + np.sign(y - x) * np.clip(size - multiplier, 0, room)
        np.testing.assert_allclose(z.ravel(), expected, atol=2e-6)


def test_projection_on_ball_and_box_is_the_nearest_point():
    """No nearer one on the way to any of many others in ball and box: the variational inequality of a projection."""
    rng = np.random.default_rng(5)
    images = rng.uniform(size=(30, *SHAPE)).astype(np.float32)
    adversarial = images + rng.normal(size=images.shape).astype(np.float32)
    radius = jnp.full(30, 2.0)
    nearest = project(images, adversarial, radius)
    assert nearest.min() >= 0 and nearest.max() <= 1
    for seed in range(20):
        keys = jax.random.split(jax.random.key(seed), 30)
        other = threats.random_start(threats.NORMS["l1"], keys, images, radius)
        assert (((adversarial - nearest) * (other - nearest)).sum((1, 2, 3)) <= 1e-4).all()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="ApgdL1"):
        Apgd(threats.NORMS["l1"], losses.margin)
    with pytest.raises(ValueError, match="iterations"):
        make("l2", iterations=0)
    with pytest.raises(ValueError, match="at least 5"):
        make("l1", steps=4)
