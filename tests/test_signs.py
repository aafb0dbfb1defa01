"""What an evaluation says of itself: gradient masking where there is some, what has no class, else nothing."""

import bisect
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxrobust as jr
from jaxrobust.attacks import losses
from jaxrobust.data import load
from jaxrobust.evaluation.signs import FALSE_ALARMS, notes, of_evaluation

N, CLASSES = 300, 10
EPS = 0.2


@pytest.fixture(scope="module")
def digits():
    """A small network trained against one step on digits: (scale of its head -> logits_fn, test images, labels)."""
    data = load("digits")
    images, labels = np.float32(data.train.images) / np.float32(data.train.images.max()), data.train.labels

    def apply(params, x, scale=1.0):
        return scale * (jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ params[0]) @ params[1])

    @jax.jit
    def train(params):
        def loss(params, x):
            return losses.cross_entropy(apply(params, x), labels).mean()

        def update(params, _):
            adversarial = jnp.clip(images + EPS * jnp.sign(jax.grad(loss, 1)(params, images)), 0, 1)
            return jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(loss)(params, adversarial)), None

        return jax.lax.scan(update, params, length=150)[0]

    rng = np.random.default_rng(0)
    params = train(tuple(np.float32(rng.normal(size=size) / np.sqrt(size[0])) for size in ((64, 64), (64, CLASSES))))
    test = np.float32(data.test.images[:N]) / np.float32(data.test.images.max())
    return lambda scale=1.0: functools.partial(apply, params, scale=scale), test, data.test.labels[:N]


def test_a_scaled_head_is_told_of_and_an_honest_one_is_not(digits):
    logits_fn, images, labels = digits
    honest = jr.attack(logits_fn(), images, labels, "pgd20+cw20", eps=EPS)
    assert honest.notes == () and 0.2 < honest.robust_accuracy < 0.8
    masked = jr.attack(logits_fn(1e4), images, labels, "pgd20+cw20", eps=EPS)
    assert masked.members["pgd20"].mean() > honest.members["pgd20"].mean() + 0.15
    told = masked.notes[-1]  # after that of zero gradients, which fast arithmetic rounds to small ones
    assert "pgd20+cw20/cw20 breaks" in told and told in repr(masked)
    assert told in str(jr.classwise_table(labels, masked))


def test_no_gradient_is_told_of_even_beside_no_other_attack(digits):
    logits_fn, images, labels = digits
    model = logits_fn()
    (told,) = jr.attack(lambda x: model(jax.lax.stop_gradient(x)), images, labels, "pgd3", eps=EPS).notes
    assert "100.0 % of the correct images have a cross-entropy gradient of exactly zero" in told


def test_what_has_no_class_is_no_class_and_not_robust():
    """Logits that overflow under attack alone."""

    def overflow(images):
        grey = images.mean((1, 2, 3))
        logits = jnp.stack([0.5 - grey, grey - 0.5, jnp.full_like(grey, -1)], -1)
        return jnp.where((jnp.abs(images - 0.5) > 0.25).any((1, 2, 3))[:, None], jnp.inf, 1) * logits

    images = np.random.default_rng(0).uniform(0.3, 0.7, (20, 4, 4, 1)).astype(np.float32)
    labels = np.asarray(overflow(images).argmax(-1))
    verdicts = jr.attack(overflow, images, labels, "pgd10", eps=0.2)
    lost = verdicts.predictions == -1
    assert lost.any() and not verdicts.is_robust[lost].any()
    assert verdicts.notes[0].startswith(f"{lost.sum()} of 20 images have no class under pgd10")


LABELS = np.arange(3000) % 3
NAMES = ("ant", "bee", "cat")


def broken(number, start=0):
    flags = np.ones(3000, bool)
    flags[start : start + number] = False
    return flags


@pytest.mark.parametrize(
    "check, few, many",
    [
        ("loss_gap", {"pgd20": broken(50), "cw20": broken(150)}, {"pgd20": broken(50), "cw20": broken(400)}),
        ("loss_gap", {"fast/pgd20": broken(0), "fast/cw20": broken(90), "fast": broken(90)},
         {"fast/pgd20": broken(0), "fast/cw20": broken(300), "fast": broken(300)}),
        ("suite_gap", {"pgd20": broken(0), "standard/apgd_ce": broken(9), "standard/apgd_t": broken(270)},
         {"pgd20": broken(0), "standard/apgd_ce": broken(9), "standard/apgd_t": broken(600)}),
        ("suite_gap", {"pgd20": broken(9), "a/pgd20": broken(9), "a/square50": broken(200)},
         {"a/pgd20": broken(9), "a/square50": broken(900)}),
        ("black_box", {"pgd20": broken(90), "square": broken(90, 60)}, {"pgd20": broken(9), "square": broken(120)}),
        ("black_box", {"s/apgd_ce": broken(90), "s/fab_t": broken(99), "s/square": broken(110)},
         {"s/apgd_ce": broken(90), "s/fab_t": broken(99), "s/square": broken(190)}),
        ("more_iterations", {"pgd20": broken(90), "pgd50": broken(80)}, {"pgd20": broken(190), "pgd50": broken(80)}),
    ],
)  # fmt: skip
def test_what_results_of_an_evaluation_may_differ_by(check, few, many):
    assert of_evaluation(LABELS, NAMES, few) == []
    assert [sign.check for sign in of_evaluation(LABELS, NAMES, many) if sign.where == "all images"] == [check]
    (said,) = notes(LABELS, NAMES, {name: np.where(flags, LABELS, -2) for name, flags in many.items()})[1:]
    assert check.replace("_", " ") in said


def test_attacks_that_are_weaker_by_nature_are_no_sign():
    """One step and black boxes are weak, and further members of a suite find something, on honest models."""
    few = {"clean": broken(0), "fgsm": broken(200), "pgd20": broken(1500), "pgd5": broken(1000), "square": broken(900)}
    assert of_evaluation(LABELS, NAMES, few | {"fgsm+cw20/fgsm": broken(200), "fgsm+cw20/cw20": broken(1550)}) == []


def test_zero_gradients_count_among_correct_images():
    correct, zero = broken(2900), ~broken(2990)
    assert of_evaluation(LABELS, NAMES, {"clean": broken(0)}, ~broken(20)) == []
    (found,) = of_evaluation(LABELS, NAMES, {"clean": broken(0)}, ~broken(200))
    assert found[:2] == ("zero_gradient", "all images")
    assert of_evaluation(LABELS, NAMES, {"clean": correct}, zero)[0].value == pytest.approx(0.9)


CHECKS = {
    "zero_gradient": "",
    "loss_gap": "cw20",
    "suite_gap": "s/apgd_t",
    "black_box": "square",
    "more_iterations": "pgd20",
}


@pytest.mark.parametrize("images", [500, 10_000])
def test_chance_raises_no_alarm(images):
    """Even where each measurement is exactly at its threshold: from the smallest count that is a sign, by bisection."""
    classes = 4
    labels, names, chance = np.arange(images) % classes, [str(c) for c in range(classes)], 0.0
    unbroken = np.ones(images, bool)
    for check, of_class in itertools.product(CHECKS, (False, True)):
        ids, where = (np.flatnonzero(labels == 0), "0") if of_class else (np.arange(images), "all images")

        def found(count, check=check, ids=ids, where=where):
            lost = np.isin(np.arange(images), ids[:count])
            results = dict.fromkeys(("clean", "pgd50", "pgd20", "cw20", "square", "s/apgd_ce", "s/apgd_t"), unbroken)
            results |= {CHECKS[check]: ~lost} if CHECKS[check] else {}
            signs = of_evaluation(labels, names, results, lost & (check == "zero_gradient"))
            return next((s for s in signs if (s.check, s.where) == (check, where)), None)

        fewest = bisect.bisect_left(range(len(ids)), True, key=lambda count, found=found: found(count) is not None)
        of_all = scipy.stats.binom.sf(fewest - 1, len(ids), found(fewest).threshold)
        chance += of_all * (classes if of_class else 1)
    assert chance < 3 * FALSE_ALARMS
