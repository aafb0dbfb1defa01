"""Programs for devices that are not there, and arithmetic that is the same for all."""

import types

import numpy as np
import tiny_config

from jaxrobust import data
from jaxrobust.distributed import parallel
from jaxrobust.performance.compiled import costs


def test_the_machine_compiled_for_says_how_many_steps():
    config, mesh = tiny_config.get_config(), parallel.make_mesh()
    config.train.steps_per_dispatch = 0
    assert costs.dispatch_length(config, data.describe("digits"), mesh) == 1
    elsewhere = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform="tpu")]))
    assert costs.dispatch_length(config, data.describe("digits"), elsewhere) == 10


def test_arithmetic_of_the_model_is_that_of_no_device(monkeypatch):
    """Maps of two by two pixels: what a CPU multiplies there is for the most part padding."""
    config = tiny_config.get_config()
    config.model.name = "preact_resnet18"
    description, mesh = data.Description("random", (16, 16, 3), 10, 80), parallel.make_mesh()
    here = costs.forward_flops(config, description, mesh)
    monkeypatch.setattr(parallel, "on_cpu", lambda mesh: False)
    assert costs.forward_flops(config, description, mesh) == here


def test_the_floor_counts_passes():
    config = tiny_config.get_config()
    config.attack.steps, config.attack.restarts = 3, 2
    passes = costs.floor_passes(config)
    config.attack.steps = 4
    assert costs.floor_passes(config) == passes + 2 * 2  # forward and gradient, in each of two restarts
    config.objective.name = "standard"
    assert costs.floor_passes(config) == 3  # forward, and gradients of activations and of weights
