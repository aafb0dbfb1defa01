"""Training in one call: with the numbers of the command, and with parts of the user's own."""

import doctest

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_config
from exploding import exploding
from flax import nnx

from jaxrobust import config as config_lib, data, objectives
from jaxrobust.attacks.threats import Linf
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation.run import load_run
from jaxrobust.remedies import knobs
from jaxrobust.runs import checkpoints, results
from jaxrobust.training import arguments, epochs, fit, loop

RNG = np.random.default_rng(0)
LABELS = np.tile(np.arange(3), 32)
# Three classes apart in one pixel each, so that a few steps separate them.
IMAGES = np.clip(0.2 * RNG.random((96, 4, 4, 1)), 0, 1).astype(np.float32)
IMAGES[np.arange(96), LABELS, 0, 0] = 1.0
FEW = {"epochs": 2, "batch_size": 16, "attack_steps": 1, "augment": (), "learning_rate": 0.05, "average_decay": 0.0}


class Nnx(nnx.Module):
    """With batch normalisation, whose statistics training has to move."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, images):
        return self.head(nnx.relu(self.norm(self.conv(images))).reshape(len(images), -1))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(images.reshape(len(images), -1))


class Dropout(nn.Module):
    """With batch normalisation as well, whose statistics must not move while it is attacked."""

    always: bool = False
    stream: str = "dropout"

    @nn.compact
    def __call__(self, images, train):
        x = nn.BatchNorm(use_running_average=not train)(images).reshape(len(images), -1)
        x = nn.Dropout(0.5, rng_collection=self.stream, deterministic=not (train or self.always))(x)
        return nn.Dense(3)(x)


class NnxDropout(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.dropout = nnx.Linear(16, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, images):
        return self.head(self.dropout(nnx.relu(self.hidden(images.reshape(len(images), -1)))))


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one.weights), jax.device_get(other.weights))


def test_the_example_runs():
    assert doctest.testmod(fit).failed == 0


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """What the command trains."""
    config = tiny_config.get_config()
    config.model.name, config.model.hidden, config.train.epochs = "mlp", (8,), 2
    config.objective.name, config.remedy.name, config.eval.attacks = "trades", "cfa", ("clean",)
    workdir = tmp_path_factory.mktemp("command")
    loop.train_and_evaluate(config, workdir)
    return workdir


OF_THE_COMMAND = {
    "threat": Linf(25.5 / 255), "objective": "trades", "remedy": "cfa", "epochs": 2, "batch_size": 64,
    "attack_steps": 2, "augment": ("flip",), "schedule": "cosine", "average_decay": 0.9, "attacks": ("clean",),
    "eval_batch_size": 136, "eval_every_epochs": 2, "model_options": {"hidden": (8,)},
}  # fmt: skip


@pytest.mark.parametrize("in_workdir", [False, True])
def test_the_numbers_are_those_of_the_command(command, tmp_path, in_workdir, capsys):
    digits = data.load("digits", validation_per_class=10)
    records = []
    arguments = OF_THE_COMMAND | ({"workdir": tmp_path / "run"} if in_workdir else {"log": records.append})
    run = fit.fit("mlp", digits, **arguments)
    assert_same(run, load_run(command, step="last", weights="averaged"))
    assert not capsys.readouterr().err
    if not in_workdir:
        assert [record["epoch"] for record in records] == [1, 2]
        return
    without = ("seconds", "passes_per_second")
    lines = [
        [{name: value for name, value in line.items() if name not in without} for line in results.read(workdir)]
        for workdir in (command, tmp_path / "run")
    ]
    assert lines[0] == lines[1] and lines[0]
    assert_same(fit.fit("mlp", digits, **arguments), run)  # continues, at its end
    with pytest.raises(UserError, match="seed"):
        fit.fit("mlp", digits, **arguments, seed=1)


def test_an_nnx_module_of_ones_own_is_trained_with_its_batch_statistics(tmp_path):
    model, records = Nnx(nnx.Rngs(0)), []
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    run = fit.fit(model, (IMAGES, LABELS), Linf(0.1), log=records.append, **FEW | {"epochs": 5})
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]
    assert np.abs(run.weights.batch_stats["norm"]["mean"]).max() > 0.01
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), before)
    assert (run.logits_fn(IMAGES).argmax(1) == LABELS).mean() > 0.9
    verdicts = run.attack("fgsm", split="train")
    assert verdicts.is_robust.shape == (96,)


def test_a_linen_module_in_a_workdir_continues(tmp_path):
    dataset = data.Dataset.from_arrays((IMAGES, LABELS), test=(IMAGES, LABELS))
    arguments = FEW | {"workdir": tmp_path, "attacks": ("clean", "fgsm"), "checkpoint_every_epochs": 1}
    run = fit.fit(Linen(), dataset, Linf(0.1), **arguments)
    scored = results.read(tmp_path)
    assert {record["attack"] for record in scored} == {"clean", "fgsm"}
    assert_same(fit.fit(Linen(), dataset, Linf(0.1), **arguments), run)
    assert results.read(tmp_path) == scored
    assert scored[-1]["accuracy"] == pytest.approx(run.attack("fgsm").is_robust.mean())


@pytest.mark.parametrize(
    "make, batch_norm", [(Dropout, "train"), (lambda: NnxDropout(nnx.Rngs(0)), "eval")], ids=["linen", "nnx"]
)
def test_dropout_is_a_function_of_seed_and_step(tmp_path, monkeypatch, make, batch_norm):
    """The same again and when continued in the middle of an epoch, other masks by another seed, none in evaluation."""
    dataset = data.Dataset.from_arrays((IMAGES, LABELS), test=(IMAGES, LABELS))
    few = FEW | {"attack_batch_norm": batch_norm, "eval_every_epochs": 2}
    one = fit.fit(make(), dataset, Linf(0.1), **few)
    assert (one.logits_fn(IMAGES) == one.logits_fn(IMAGES)).all()
    asked = iter(range(100))

    def stops(request):
        request.signal_number = 15 if next(asked) == 8 else request.signal_number
        return request.signal_number is not None

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StopRequest, "__bool__", stops)
        fit.fit(make(), dataset, Linf(0.1), workdir=tmp_path, **few)
    steps = checkpoints.Checkpoints(tmp_path, read_only=True).steps()
    assert 0 < max(steps) < 12 and max(steps) % 6, steps
    assert_same(fit.fit(make(), dataset, Linf(0.1), workdir=tmp_path, **few), one)
    opened = load_run(tmp_path, "last", model=make(), dataset=dataset)
    assert_same(opened, one)
    np.testing.assert_array_equal(opened.attack("fgsm").is_robust, one.attack("fgsm").is_robust)
    other = fit.fit(make(), dataset, Linf(0.1), **few | {"seed": 1})
    differ = jax.tree.map(lambda a, b: np.abs(a - b).max(), one.weights.params, other.weights.params)
    assert max(jax.tree.leaves(differ)) > 1e-3


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The workdir of a model of one's own, on arrays."""
    workdir = tmp_path_factory.mktemp("own")
    fit.fit(Linen(), (IMAGES, LABELS), Linf(0.1), workdir=workdir, **FEW | {"epochs": 1})
    return workdir


class Wider(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(nn.Dense(4)(images.reshape(len(images), -1)))


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, r"^model = 'Linen': the run is of a model of the user's own.*load_run\(workdir, model=...\) opens it"),
        ({"model": Linen()}, r"^dataset = 'arrays': the run is of a dataset of the user's own.*dataset=...\) opens it"),
        (
            {"model": Wider(), "dataset": (IMAGES, LABELS)},
            r"^model = 'Wider': .* of another model: params/Dense_0/kernel is float32\[16, 3\] there, and ",
        ),
        (
            {"model": Dropout(), "dataset": (IMAGES, LABELS)},
            r"^model = 'Dropout': .*: batch_stats/BatchNorm_0/mean is not there, and float32\[1\] in the given one",
        ),
        ({"model": 3, "dataset": (IMAGES, LABELS)}, "^model = 3: is no name"),
    ],
)
def test_a_run_of_ones_own_model_is_opened_with_it_alone(own, given, message):
    with pytest.raises(FieldError, match=message) as error:
        load_run(own, "last", **given)
    assert "\n" not in str(error.value)


class Shift:
    """A remedy of one's own: after an epoch a class's radius is its accuracy."""

    def init(self, counts):
        return knobs.neutral(len(counts)), {"epochs": jnp.zeros((), jnp.int32)}

    def update(self, statistics, state):
        of_class = statistics["correct"] / jnp.maximum(statistics["count"], 1)
        return knobs.neutral(len(of_class)).replace(radius_scale=of_class), {"epochs": state["epochs"] + 1}


def test_a_remedy_of_ones_own():
    records = []
    fit.fit(Linen(), (IMAGES, LABELS), Linf(0.1), remedy=Shift(), log=records.append, **FEW)
    assert not records[0]["knobs"]
    np.testing.assert_allclose(records[1]["knobs"]["radius_scale"], records[0]["train_class_accuracy"], rtol=1e-6)


def test_a_remedy_that_observes_the_validation_split_of_the_data():
    dataset, records = data.Dataset.from_arrays((IMAGES, LABELS), validation_per_class=4), []
    fit.fit(Linen(), dataset, Linf(0.3), remedy="cfa", observe="validation", log=records.append, **FEW)
    # The radius is half of it plus the accuracy, here a number of fourths.
    moved = np.array(records[1]["knobs"]["radius_scale"]) - 0.5
    np.testing.assert_allclose(4 * moved, np.round(4 * moved), atol=1e-5)


PLAIN = FEW | {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}


@pytest.fixture(scope="module")
def plain():
    return fit.fit(Linen(), (IMAGES, LABELS), Linf(0.1), **PLAIN)


@pytest.mark.parametrize(
    "own",
    [
        {"loss": lambda logits, labels: optax.softmax_cross_entropy_with_integer_labels(logits, labels)},
        {"objective": objectives.create("pgd_at")},
        {"optimizer": optax.sgd(0.05)},
    ],
    ids=lambda own: next(iter(own)),
)
def test_a_part_of_ones_own_that_is_the_same_as_the_packages(plain, own):
    other = fit.fit(Linen(), (IMAGES, LABELS), Linf(0.1), **PLAIN | own)
    weights = other.weights.params, plain.weights.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *weights)


def test_a_loss_of_ones_own_is_what_is_trained():
    """With one that is 0 nothing moves."""
    nothing = {"loss": lambda logits, labels: 0.0 * logits.sum(-1)}
    one, other = (
        fit.fit(Linen(), (IMAGES, LABELS), Linf(0.1), **PLAIN | given) for given in ({"learning_rate": 0.0}, nothing)
    )
    assert_same(one, other)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"epochs": 0}, r"^epochs = 0"),
        ({"learning_rate": -1.0}, r"^learning_rate = -1"),
        ({"learning_rte": 0.1}, r"^learning_rte = 0.1.*did you mean learning_rate"),
        ({"objective": "trade"}, r"^objective = 'trade'"),
        ({"remedy": "cf"}, r"^remedy = 'cf'"),
        ({"optimizer": "adam"}, r"^optimizer = 'adam'"),
        ({"model": "resnet19"}, r"^model = 'resnet19'"),
        ({"model": nnx.Dropout(0.5, rngs=nnx.Rngs(0))}, r"^model = 'Dropout': returns \[2, 4, 4, 1\] for images"),
        ({"model": Dropout(always=True)}, r"^model = 'Dropout': draws random numbers in evaluation: .*only if `train`"),
        ({"model": Dropout(stream="noise")}, r"^model = 'Dropout': draws random numbers beside dropout: .*noise"),
        ({"model_options": {"depth": 10}}, r"^depth of model_options = 10: mlp has no such option; .*take wide_resnet"),
        ({"model": nn.Dense(3)}, r"^model = 'Dense': its call has no argument `train`"),
        ({"model": 3}, r"^model = 3"),
        ({"loss": optax.huber_loss, "objective": objectives.create("standard")}, r"^loss = "),
        ({"threat": 8 / 255}, r"^threat = 0.03"),
        ({"threat": Linf(0.1), "batch_size": "many"}, r"^batch_size = 'many'"),
        ({"observe": "validation", "remedy": "cfa"}, r"^validation_per_class of the dataset"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    given = {"model": "mlp", "dataset": (IMAGES, LABELS), "threat": Linf(0.1)} | arguments
    with pytest.raises(FieldError, match=message) as found:
        fit.fit(**given)
    assert "--config" not in str(found.value)


def test_what_diverges_says_what_to_do(monkeypatch):
    exploding(monkeypatch, 0.0, 1e29)
    with pytest.raises(epochs.Diverged, match="lower learning_rate"):
        fit.fit(Linen(), (IMAGES, LABELS), Linf(0.1), **FEW)


def test_every_setting_is_a_field():
    fields = config_lib.default()
    for field in arguments.FIELDS.values():
        section, name = field.split(".")
        assert name in fields[section], field
