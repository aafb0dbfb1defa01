"""The public library: one call for any function, with the numbers of the commands."""

import doctest
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
from flax import nnx

import jaxrobust as jr
from jaxrobust import files
from jaxrobust.attacks import threats
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import library, run, steps, verdicts
from jaxrobust.runs import results
from jaxrobust.training import loop

HEAVY = ("tensorflow", "matplotlib", "orbax", "scipy", "clu", "sklearn")
CHEAP = """
import sys, time
import jax
before, started = set(sys.modules), time.process_time()  # which other processes do not lengthen
import jaxrobust
seconds = time.process_time() - started
names = dir(jaxrobust)
new = {name.split(".")[0] for name in set(sys.modules) - before}
jaxrobust.attack, jaxrobust.predict, jaxrobust.Linf
later = {name.split(".")[0] for name in set(sys.modules) - before}
print(seconds, sorted(new), sorted(later), names)
"""


def test_the_import_is_cheap_and_shows_what_there_is():
    found = subprocess.run([sys.executable, "-c", CHEAP], capture_output=True, text=True, check=True).stdout
    seconds, rest = found.split(" ", 1)
    new, later, names = rest.replace("] [", "]|[").split("|")
    assert float(seconds) < 0.3
    assert not any(f"'{name}'" in new for name in HEAVY), new
    assert not any(f"'{name}'" in later for name in ("tensorflow", "matplotlib", "orbax", "clu")), later
    assert all(f"'{name}'" in names for name in ("attack", "predict", "load_run", "Verdicts", "Linf"))


def test_every_public_name_is_there_and_has_a_docstring():
    for name in jr.__all__:
        assert getattr(jr, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        _ = jr.atack


@pytest.mark.parametrize("module", [library, run, verdicts, threats], ids=lambda module: module.__name__)
def test_the_examples_of_docstrings_run(module):
    failed, _ = doctest.testmod(module)
    assert not failed


RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.3, 0.7, (50, 4, 4, 1)).astype(np.float32)
WEIGHTS = RNG.normal(size=(16, 2)).astype(np.float32)


def linear(images):
    return (images.reshape(len(images), -1) - 0.5) @ WEIGHTS


LABELS = np.asarray(linear(jnp.asarray(IMAGES)).argmax(-1))


def test_a_linear_model_is_as_robust_as_its_margins():
    logits = linear(IMAGES)
    margin = np.abs(logits[:, 0] - logits[:, 1]) / np.abs(WEIGHTS[:, 0] - WEIGHTS[:, 1]).sum()
    eps = float(np.median(margin))
    found = jr.attack(linear, IMAGES, LABELS, "apgd_ce20+square20", eps=eps)
    near = np.abs(margin - eps) < 1e-3
    np.testing.assert_array_equal(found.is_robust[~near], (margin > eps)[~near])
    assert list(found.members) == ["clean", "apgd_ce20", "square20"]
    np.testing.assert_array_equal(found.members["square20"], found.is_robust)
    np.testing.assert_array_equal(found.predictions == LABELS, found.is_robust)
    np.testing.assert_array_equal(jr.predict(linear, found.adversarial), found.predictions)
    assert np.abs(found.adversarial - IMAGES).max() <= eps + 1e-6
    assert found.forward_passes > 20 and (found.norm, found.attack) == ("linf", "apgd_ce20+square20")
    wrong = jr.attack(linear, IMAGES, 1 - LABELS, "pgd3", keep_adversarial=False)
    assert not wrong.is_robust.any() and wrong.adversarial is None and wrong.clean_accuracy == 0


def test_results_do_not_depend_on_the_batch_or_on_how_the_model_is_written():
    """Linen with variables bound, NNX, and a composition; uint8 as floats; batches that nothing divides."""
    reference = jr.attack(linear, IMAGES, LABELS, "pgd5x2", eps=0.02)
    dense = nn.Dense(2, use_bias=False)
    bound = dense.bind({"params": {"kernel": WEIGHTS}})
    module = nnx.Linear(16, 2, use_bias=False, rngs=nnx.Rngs(0))
    module.kernel[...] = jnp.asarray(WEIGHTS)
    flat = lambda images: images.reshape(len(images), -1) - 0.5  # noqa: E731
    for function in (lambda x: bound(flat(x)), lambda x: module(flat(x)), jax.jit(linear)):
        found = jr.attack(function, jnp.asarray(IMAGES), LABELS, "pgd5x2", eps=0.02, batch_size=7)
        np.testing.assert_array_equal(found.is_robust, reference.is_robust)
    assert 5 < reference.is_robust.sum() < 45
    pixels = np.uint8(IMAGES * 255)
    one = jr.attack(linear, pixels, LABELS, "pgd3", eps=0.02)
    other = jr.attack(linear, pixels / np.float32(255), LABELS, "pgd3", eps=0.02)
    np.testing.assert_array_equal(one.is_robust, other.is_robust)


def test_programs_are_kept_while_the_function_stays_as_it_is(monkeypatch):
    """A module trained between two calls is another model, though it is the same object."""
    module = nnx.Linear(16, 2, use_bias=False, rngs=nnx.Rngs(0))
    module.kernel[...] = jnp.asarray(WEIGHTS)

    def logits_fn(images):
        return module(images.reshape(len(images), -1) - 0.5)

    made, original = [], steps.make_attack_steps
    monkeypatch.setattr(steps, "make_attack_steps", lambda *args, **kw: made.append(args) or original(*args, **kw))
    first = jr.attack(logits_fn, IMAGES, LABELS, "pgd3", eps=0.02)
    again = jr.attack(logits_fn, IMAGES, LABELS, "pgd3", eps=0.005)
    assert len(made) == 1 and again.is_robust.sum() > first.is_robust.sum()
    module.kernel[...] = -jnp.asarray(WEIGHTS)
    assert jr.attack(logits_fn, IMAGES, LABELS, "pgd3", eps=0.02).clean_accuracy == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": IMAGES * 255}, r"^images = 'float32\[50, 4, 4, 1\]': has values from .* divide by 255"),
        ({"images": IMAGES - 0.5}, r"^images = .*undo the normalisation"),
        ({"images": IMAGES[:, 0]}, r"^images = 'float32\[50, 4, 1\]': is no batch"),
        ({"images": np.int32(IMAGES)}, r"^images = .*has another type"),
        ({"images": IMAGES * np.float32("nan")}, r"^images = .*has values from nan"),
        ({"labels": LABELS[:-1]}, r"^labels = 'int32\[49\]': there are 50 images"),
        ({"labels": LABELS / 2}, r"^labels = .*are no classes"),
        ({"labels": LABELS + 1}, r"^labels = 2: logits_fn has 2 logits"),
        ({"attack": "autoattack"}, r"^attack = 'autoattack': is unknown"),
        ({"norm": "l3"}, r"^norm = 'l3': is unknown"),
        ({"eps": 8}, r"^eps = 8.0: is larger than the range of a pixel; write 8/255"),
        ({"eps": 128, "norm": "l2"}, r"^eps = 128.0: is larger than the largest distance"),
        ({"eps": -1}, r"^eps = -1: is no number from 0"),
        ({"step_size": 0}, r"^step_size = 0"),
        ({"batch_size": 0}, r"^batch_size = 0"),
        ({"logits_fn": lambda images: images}, r"^logits_fn = .*returns \[2, 4, 4, 1\] for images \[2, 4, 4, 1\]"),
        ({"logits_fn": lambda images: images @ WEIGHTS}, r"^logits_fn = .*fails on images"),
        ({"logits_fn": None}, r"^logits_fn = 'NoneType': cannot be called"),
        ({"logits_fn": lambda images: linear(images) * jnp.nan}, r"^logits_fn: .*not finite"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    given = {"logits_fn": linear, "images": IMAGES, "labels": LABELS, "attack": "pgd3"} | change
    with pytest.raises(UserError, match=message):
        jr.attack(**given)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = tiny_config.get_config()
    config.model.name, config.model.hidden, config.model.dtype = "mlp", (16,), "bfloat16"
    config.train.epochs, config.eval.every_epochs = 2, 2
    config.eval.attacks = ("clean", "pgd3", "apgd_ce5+square50")
    folder = tmp_path_factory.mktemp("run")
    loop.train_and_evaluate(config, folder)
    return folder


@pytest.mark.parametrize("weights", ["raw", "averaged"])
def test_a_run_has_the_numbers_of_the_command(workdir, weights):
    opened = jr.load_run(workdir, step="last", weights=weights)
    stored = results.read_examples(workdir, 36, weights, "test")
    for name in ("pgd3", "apgd_ce5+square50"):
        found = opened.attack(name)
        np.testing.assert_array_equal(found.is_robust, stored[name])
        np.testing.assert_array_equal(found.predictions, stored[f"{name}_prediction"])
        record = results.StoredResults(workdir, 36, weights, "test").records()[name]
        assert found.robust_accuracy == record["accuracy"]
        assert round(found.forward_passes, 3) == pytest.approx(record["passes"], abs=2e-3)
    np.testing.assert_array_equal(found.members["apgd_ce5"], stored["apgd_ce5+square50/apgd_ce5"])
    np.testing.assert_array_equal(found.members["clean"], stored["clean"])


def test_the_logits_of_a_run_are_a_function_like_any_other(workdir):
    opened = jr.load_run(workdir)
    best = files.read_json(workdir / results.BEST)
    clean = results.read_examples(workdir, best["step"], best["weights"], "test")["clean_prediction"]
    images = opened.dataset.test.images
    np.testing.assert_array_equal(jr.predict(opened.logits_fn, images), clean)
    found = jr.attack(opened.logits_fn, images[:40], opened.dataset.test.labels[:40], "pgd3", eps=opened.threat.eps)
    assert 0 < found.is_robust.sum() < 40
    verdicts = opened.attack("pgd3")
    table = opened.table(verdicts)
    assert table.correct.sum() == verdicts.is_robust.sum() and "worst class" in str(table)
    assert opened.class_names == opened.dataset.class_names and opened.threat == jr.Linf(25.5 / 255)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: jr.load_run(folder, step=7), r"^step = 7: is no checkpoint of the run; give one of 18, 36"),
        (lambda folder: jr.load_run(folder, step="newest"), r"^step = 'newest': is unknown"),
        (lambda folder: jr.load_run(folder, weights="mean"), r"^weights = 'mean': is unknown"),
        (lambda folder: jr.load_run(folder / "none"), r"holds no run"),
        (lambda folder: jr.load_run(folder).attack("pgd3", "tests"), r"^split = 'tests': is unknown"),
        (lambda folder: jr.load_run(folder).attack("pgd3", norm="l2"), r"^eps = None: the run's radius is in linf"),
    ],
)
def test_wrong_arguments_of_a_run_are_named(workdir, make, message):
    with pytest.raises(UserError, match=message):
        make(workdir)


def test_threats_check_their_units():
    assert (jr.L2(0.5), jr.L1(12)) == (jr.Threat("l2", 0.5), jr.Threat("l1", 12.0))
    with pytest.raises(FieldError, match=r"^eps = 8\.0"):
        jr.Linf(8)
