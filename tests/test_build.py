"""What the config says is what is built."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from jaxrobust import data
from jaxrobust.attacks import suites
from jaxrobust.config import objects
from jaxrobust.distributed import parallel
from jaxrobust.performance.compiled import costs
from jaxrobust.training import setup as training_setup


@pytest.fixture
def config():
    return tiny_config.get_config()


@pytest.mark.parametrize("streaming", [False, True])
def test_the_state_is_donated_and_nothing_else(config, streaming):
    config.data.streaming = streaming
    description = data.describe("digits")
    (state, *inputs), _ = costs.lower_training(config, description, parallel.make_mesh(), 10).args_info
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    assert not any(leaf.donated for leaf in jax.tree.leaves(inputs))


def test_the_attack_computes_in_the_models_type_and_the_judge_in_float32(config):
    config.model.dtype = "bfloat16"
    (spec,) = suites.parse("pgd3").members
    text = costs.lower_evaluation(config, data.describe("digits"), parallel.make_mesh(), spec).as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*", text)
    judge = [line for line in convolutions if re.search(r": \(tensor<[\dx]*xf32>", line)]
    attack = [line for line in convolutions if re.search(r": \(tensor<[\dx]*xbf16>", line)]
    assert judge and attack and len(judge) + len(attack) == len(convolutions)
    assert all("HIGHEST" in line for line in judge) and not any("HIGHEST" in line for line in attack)


def test_batch_norm_is_synchronised_where_asked_for(config):
    mesh = parallel.make_mesh()
    assert objects.model(config, 3, mesh).batch_norm_axis is None
    config.model.batch_norm = "synchronised"
    assert objects.model(config, 3, mesh).batch_norm_axis == parallel.AXIS


def test_a_schedule_counts_updates_and_free_makes_several_of_a_batch(config):
    """A gradient of 1 moves a weight by the rate: 4 batches of 3 updates, the second half at a tenth."""
    config.objective.name, config.objective.replays, config.attack.steps = "free", 3, 1
    config.optimizer.schedule, config.optimizer.milestones = "piecewise", (0.5,)
    config.optimizer.momentum, config.optimizer.weight_decay = 0.0, 0.0
    optimizer = training_setup.create(config, data.describe("digits"), parallel.make_mesh(), 4).optimizer
    weight, state, moves = jnp.zeros(()), None, []
    state = optimizer.init(weight)
    for _ in range(12):
        move, state = optimizer.update(jnp.ones(()), state, weight)
        moves.append(float(move))
    np.testing.assert_allclose(moves, [-0.1] * 6 + [-0.01] * 6, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "piecewise", "cosine", "one_cycle"])
def test_the_table_of_learning_rates_is_the_schedule(config, schedule):
    config.optimizer.schedule, config.optimizer.warmup = schedule, 0.2
    training = training_setup.create(config, data.describe("digits"), parallel.make_mesh(), 10)
    rates = training.learning_rates
    np.testing.assert_allclose(rates, [float(training.schedule(step)) for step in range(10)], rtol=1e-6)
    assert rates.shape == (10,) and rates.min() < rates.max()


def test_weights_in_the_batch_wait_for_the_remedy(config):
    """Losses of two epochs of one step each: faal begins with the second, or with the first."""
    config.data.augment, config.model.name, config.model.hidden = (), "mlp", (8,)
    config.train.epochs, config.train.batch_size, config.remedy.name = 2, 512, "faal"
    config.train.steps_per_dispatch = 2
    losses = {}
    for name, begin in (("none", 0.0), ("faal", 0.5), ("faal", 0.0)):
        config.remedy.name, config.remedy.begin = name, begin
        dataset, mesh = objects.dataset(config), parallel.make_mesh()
        training = training_setup.create(config, dataset, mesh, 2)
        rows = dataset.train.images.reshape(len(dataset.train), -1)
        order = np.arange(1024, dtype=np.int32).reshape(2, 512)
        arguments = parallel.replicate((rows, dataset.train.labels), mesh)
        indices = parallel.shard(order, mesh, parallel.SHARDED_STEPS)
        _, found = training.resident_steps()(training.initial_state(), *arguments, indices, jax.random.key(0))
        losses[name, begin] = np.asarray(found)
    np.testing.assert_allclose(losses["faal", 0.5][0], losses["none", 0.0][0], rtol=1e-6)
    assert abs(losses["faal", 0.5][1] / losses["none", 0.0][1] - 1) > 1e-3
    assert abs(losses["faal", 0.0][0] / losses["none", 0.0][0] - 1) > 1e-3
