"""What the config says is what is built."""

import re

import jax
import pytest
import tiny_config

from jaxrobust import build, data, parallel
from jaxrobust.attacks import suites
from jaxrobust.compiled import costs


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
    assert build.model(config, 3, mesh).batch_norm_axis is None
    config.model.batch_norm = "synchronised"
    assert build.model(config, 3, mesh).batch_norm_axis == parallel.AXIS
