"""Models that cheat are caught by the check that is made for their trick, and an honest one by none."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_models import run

from jaxrobust.attacks import losses, masking, suites, threats
from jaxrobust.attacks.attack import Examples
from jaxrobust.evaluation.signs import ALL, FEWEST_EXAMPLES, signs

SHAPE = (6, 6, 1)
CLASSES = 3
NAMES = ("ant", "bee", "cat")
RADIUS = 0.1
N = 240
KEYS = jax.random.split(jax.random.key(0), (5, N))


@pytest.fixture(scope="module")
def honest():
    """Images around three prototypes, and a small network trained against one step on them: (logits_fn, examples)."""
    rng = np.random.default_rng(0)
    prototypes = rng.uniform(0.3, 0.7, (CLASSES, *SHAPE))
    labels = np.arange(2 * N) % CLASSES
    images = np.clip(prototypes[labels] + rng.normal(0, 0.1, (2 * N, *SHAPE)), 0, 1).astype(np.float32)

    def apply(params, x):
        return jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ params[0] + params[1][None]) @ params[2]

    def loss(params, x, y):
        return losses.cross_entropy(apply(params, x), y).mean()

    @jax.jit
    def train(params, x, y):
        def update(params, _):
            adversarial = x + RADIUS * jnp.sign(jax.grad(loss, 1)(params, x, y))
            gradient = jax.grad(loss)(params, adversarial, y)
            return jax.tree.map(lambda p, g: 0.998 * p - 0.2 * g, params, gradient), None

        return jax.lax.scan(update, params, length=200)[0]

    start = (rng.normal(size=(36, 32)) / 6, np.zeros(32), rng.normal(size=(32, CLASSES)) / 6)
    params = train(tuple(np.float32(part) for part in start), images[:N], labels[:N])
    return partial(apply, params), (images[N:], labels[N:])


def survival(logits_fn, images, labels, experiments):
    """What `signs` takes, by running the experiments for all examples."""
    correct = np.asarray(logits_fn(images).argmax(-1) == labels)
    programs, survives = {}, {}
    for experiment in experiments:
        built = experiment.build("linf", CLASSES)
        one_run = dataclasses.replace(built, restarts=1)
        if one_run not in programs:
            programs[one_run] = partial(run, one_run, logits_fn)
        radius = threats.largest_radius("linf", SHAPE) if np.isinf(experiment.radius) else experiment.radius * RADIUS
        radius = np.full(len(labels), radius, np.float32)
        runs = [
            programs[one_run](Examples(images, labels, KEYS[run], radius)).is_adversarial for run in range(built.runs)
        ]
        survives[experiment.name] = correct & ~np.any(runs, axis=0)
    return survives


def worst_case(members, logits_fn, images, labels):
    """Who survives one shortened run of some members of the suite `standard`: an upper bound of who survives it."""
    survives = np.asarray(logits_fn(images).argmax(-1) == labels)
    examples = Examples(images, labels, KEYS[0], np.full(len(labels), RADIUS, np.float32))
    for member in suites.parse(members).members:
        state = run(member.build("linf", CLASSES), logits_fn, examples)
        survives = survives & np.asarray(logits_fn(state.adversarial).argmax(-1) == labels)
    return survives


PLAIN, MARGIN, _, _, SCALE_FREE, _, _, HUGE, SQUARE = masking.EXPERIMENTS


def probed(logits_fn, images, labels):
    return jax.device_get(jax.jit(partial(masking.probe, logits_fn))(images, labels))


def everywhere(found):
    return {sign.check for sign in found if sign.where == ALL}


def test_an_honest_model_is_not_suspected(honest):
    """Of nothing, overall and by class, though all experiments are made, and it is robust to a good part."""
    logits_fn, (images, labels) = honest
    survives = survival(logits_fn, images, labels, masking.EXPERIMENTS)
    assert signs(labels, NAMES, probed(logits_fn, images, labels), survives) == []
    assert 0.3 < survives["pgd20"].mean() < 0.9


def test_no_gradient(honest):
    """PGD gets nowhere, not even where any image is allowed; a search without gradients does."""
    logits_fn, (images, labels) = honest
    killed = lambda x: logits_fn(jax.lax.stop_gradient(x))  # noqa: E731
    survives = survival(killed, images, labels, [PLAIN, HUGE, SQUARE])
    probes = probed(killed, images, labels)
    assert everywhere(signs(labels, NAMES, probes, survives)) == {"zero_gradient", "black_box", "huge_radius"}
    assert not probes.margin_gradient.any()
    assert survives["pgd20"].all() and survives["square1000"].mean() < 0.8


def test_quantised_input(honest):
    logits_fn, (images, labels) = honest
    found = signs(labels, NAMES, probed(lambda x: logits_fn(jnp.round(16 * x) / 16), images, labels))
    assert [sign[:4] for sign in found] == [("zero_gradient", ALL, 1.0, 0.0)]


@pytest.mark.usefixtures("optimised")
def test_logits_times_100(honest):
    """PGD on the cross-entropy is blind to many images; on scaled logits it is as good as ever. The suite is not."""
    logits_fn, (images, labels) = honest
    survives = survival(lambda x: 100 * logits_fn(x), images, labels, [PLAIN, MARGIN, SCALE_FREE])
    found = signs(labels, NAMES, probed(lambda x: 100 * logits_fn(x), images, labels), survives)
    assert {"zero_gradient", "saturated_loss", "logit_scale"} <= everywhere(found)
    assert "cwK" in found[0].message
    before = survival(logits_fn, images, labels, [PLAIN, SCALE_FREE])
    assert survives["pgd20"].mean() > before["pgd20"].mean() + 0.05
    assert abs(survives["pgd20_scale_free"].mean() - before["pgd20_scale_free"].mean()) <= 0.01
    assert worst_case("apgd_t20", lambda x: 100 * logits_fn(x), images, labels).mean() < survives["pgd20"].mean() - 0.05


def test_offset(honest):
    logits_fn, (images, labels) = honest
    found = signs(labels, NAMES, probed(lambda x: logits_fn(x) + 1e6, images, labels))
    assert "resolution" in everywhere(found)
    assert everywhere(found) <= {"resolution", "discontinuous"}  # the steps that float32 leaves are jumps
    plain = survival(lambda x: logits_fn(x) + 1e6, images, labels, [PLAIN])["pgd20"]
    assert (
        worst_case("apgd_ce20+apgd_t20+square1000", lambda x: logits_fn(x) + 1e6, images, labels).mean()
        < plain.mean() - 0.03
    )


def test_noise_that_depends_on_the_pixels(honest):
    """The same image always gives the same logits, and another one unrelated noise."""
    logits_fn, (images, labels) = honest

    def noisy(x):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(len(x), -1)
        seeds = (bits * jnp.arange(1, 73, 2, dtype=jnp.uint32)[None]).sum(-1, dtype=jnp.uint32)
        noise = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), (CLASSES,)))(seeds)
        return logits_fn(x) + noise

    probes = probed(noisy, images, labels)
    assert everywhere(signs(labels, NAMES, probes)) == {"discontinuous"} and not probes.change.any()
    plain = survival(noisy, images, labels, [PLAIN])["pgd20"]
    assert worst_case("apgd_t20+square1000", noisy, images, labels).mean() < plain.mean() - 0.01


def test_noise_from_outside(honest):
    """Numbers that JAX does not know of, new at each evaluation."""
    logits_fn, (images, labels) = honest
    rng = np.random.default_rng(0)

    def noisy(x):
        shape = jax.ShapeDtypeStruct((len(x), CLASSES), np.float32)
        draw = lambda: rng.normal(0, 0.01, shape.shape).astype(np.float32)  # noqa: E731
        return logits_fn(x) + jax.experimental.io_callback(draw, shape)

    assert everywhere(signs(labels, NAMES, probed(noisy, images, labels))) == {"randomised"}


def test_noise_that_depends_on_the_place_in_the_batch(honest):
    logits_fn, (images, labels) = honest
    noisy = lambda x: logits_fn(x) + jax.random.normal(jax.random.key(0), (len(x), CLASSES)) / 100  # noqa: E731
    assert everywhere(signs(labels, NAMES, probed(noisy, images, labels))) == {"randomised"}


def test_softmax(honest):
    logits_fn, (images, labels) = honest
    found = signs(labels, NAMES, probed(lambda x: jax.nn.softmax(logits_fn(x)), images, labels))
    assert everywhere(found) == {"probabilities"}


def test_probes_of_a_linear_model_are_known():
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(2, 36)).astype(np.float32), rng.uniform(size=(50, *SHAPE)).astype(np.float32)
    logits = x.reshape(50, -1) @ w.T
    labels = logits.argmax(1)
    labels[:10] = 1 - labels[:10]
    probes = probed(lambda x: x.reshape(len(x), -1) @ w.T, x, labels)
    wrong = 1 / (1 + np.exp(logits[range(50), labels] - logits[range(50), 1 - labels]))
    slope = np.abs(w[0] - w[1]).max()
    np.testing.assert_allclose(probes.margin_gradient, np.full(50, slope), rtol=1e-5)
    np.testing.assert_allclose(probes.gradient, wrong * slope, rtol=1e-3)
    np.testing.assert_allclose(probes.gap, np.abs(logits[:, 0] - logits[:, 1]), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(probes.correct, np.arange(50) >= 10)
    np.testing.assert_allclose(probes.resolution, np.spacing(np.abs(logits).max(1)) / probes.gap, rtol=1e-3)
    assert probes.jump.max() < 1e-3 and probes.change.max() < 1e-6
    assert not probes.saturated.any() and not probes.probability.any()


@pytest.mark.parametrize("classes", [2, 10])
def test_scale_free_loss(classes):
    """Scale and offset change neither its value nor, but for the chain rule, its gradient."""
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(20, classes)).astype(np.float32), rng.integers(0, classes, 20)

    def value_and_gradient(transform):
        total = lambda z: masking.scale_free_cross_entropy(transform(z), labels).sum()  # noqa: E731
        return masking.scale_free_cross_entropy(transform(logits), labels), jax.grad(total)(logits)

    plain = value_and_gradient(lambda z: z)
    for other in (lambda z: 100 * z, lambda z: z / 100, lambda z: 1e30 * z):
        for one, another in zip(plain, value_and_gradient(other), strict=True):
            np.testing.assert_allclose(another, one, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(value_and_gradient(lambda z: z + 1e6)[0], plain[0], rtol=0.2, atol=0.2)
    assert np.isfinite(masking.scale_free_cross_entropy(np.zeros((1, classes), np.float32), labels[:1])).all()


# Judgement alone.

LABELS = np.arange(3000) % 3
SCALED = SCALE_FREE.name


def broken(number, among=None):
    """Flags of 3,000 examples of which the first so many, or so many of one class, are broken."""
    flags = np.ones(3000, bool)
    flags[(np.arange(3000) if among is None else np.flatnonzero(among == LABELS))[:number]] = False
    return flags


@pytest.mark.parametrize(
    "check, few, many",
    [
        ("black_box", {"pgd20": broken(50), "square1000": broken(54)}, {"pgd20": broken(50), "square1000": broken(70)}),
        ("loss_gap", {"pgd20": broken(50), "cw20": broken(150)}, {"pgd20": broken(300), "cw20": broken(50)}),
        ("logit_scale", {"pgd20": broken(9), SCALED: broken(99)}, {"pgd20": broken(9), SCALED: broken(250)}),
        ("more_steps", {"pgd20": broken(50), "pgd100": broken(70)}, {"pgd20": broken(50), "pgd100": broken(120)}),
        ("more_restarts", {"pgd20": broken(50), "pgd20x5": broken(70)}, {"pgd20": broken(50), "pgd20x5": broken(120)}),
        ("radius_order", {"pgd20": broken(70), "pgd20@2": broken(50)}, {"pgd20@0.5": broken(150), "pgd20": broken(50)}),
        ("huge_radius", {"pgd20@inf": broken(2980)}, {"pgd20@inf": broken(2900)}),
    ],
)  # fmt: skip
def test_what_attacks_may_differ_by(check, few, many):
    """A difference below the threshold is nothing, one well above it is found, with its share of the examples."""
    assert signs(LABELS, NAMES, is_robust=few) == []
    (found,) = [f for f in signs(LABELS, NAMES, is_robust=many) if f.where == ALL]
    counts = [flags.sum() for flags in many.values()]
    share = (abs(counts[0] - counts[1]) if len(counts) == 2 else counts[0]) / 3000
    assert found.check == check and found.value == pytest.approx(share) and found.value > found.threshold
    assert f"{100 * share:.1f} %" in found.message


def test_a_suite_is_neither_white_nor_black_box():
    flags = {"pgd20": broken(0), "square1000": broken(0), "pgd20+square1000": broken(99), "standard/square": broken(99)}
    assert signs(LABELS, NAMES, is_robust=flags) == []


def test_a_class_is_named_where_it_alone_is_suspicious():
    flags = {"pgd20": broken(0), "pgd20x5": broken(40, among=1)}
    (found,) = signs(LABELS, NAMES, is_robust=flags)
    assert found[:4] == ("more_restarts", "bee", 0.04, 0.01)


def test_a_class_is_named_where_it_is_worse_than_all():
    flags = {"pgd20": broken(0), "pgd20x5": broken(0) & broken(200, among=1) & broken(20, among=2)}
    assert [sign.where for sign in signs(LABELS, NAMES, is_robust=flags)] == [ALL, "bee"]


def test_small_classes_are_not_judged_alone():
    labels = np.repeat(np.arange(3), (100, 100, FEWEST_EXAMPLES - 1))
    flags = {"pgd20": np.ones(len(labels), bool), "pgd20x5": labels != 2}
    assert {sign.where for sign in signs(labels, NAMES, is_robust=flags)} == {ALL}


def test_honest_differences_raise_no_false_alarms():
    """Attacks that differ at random by less than the thresholds, on 40 small sets of examples."""
    rng = np.random.default_rng(3)
    labels, alarms = np.arange(500) % 10, 0
    for _ in range(40):
        base = rng.random(500) < 0.5
        flags = {name: base ^ (base & (rng.random(500) < 0.02)) for name in ("pgd20", "pgd100", "pgd20x5", "cw20")}
        alarms += bool(signs(labels, [str(c) for c in range(10)], is_robust=flags))
    assert alarms <= 2


def test_every_experiment_is_looked_for():
    """Names, and that each pair of flags leads to a sign when they contradict each other."""
    names = [experiment.name for experiment in masking.EXPERIMENTS]
    assert len(set(names)) == len(names)
    told = set()
    for one, other in itertools.permutations(names, 2):
        for sign in signs(LABELS, NAMES, is_robust={one: broken(0), other: broken(3000)}):
            told |= {sign.check}
    gains = {"loss_gap", "logit_scale", "more_steps", "more_restarts"}
    assert told == gains | {"black_box", "radius_order", "huge_radius"}
    assert threats.largest_radius("linf", SHAPE) == 1 and threats.largest_radius("l2", SHAPE) == 6
