"""The default config and its forms."""

import json

import pytest

from jaxrobust import config as config_lib


def test_radius_and_steps_in_both_units():
    config = config_lib.default()
    config.threat.eps_255 = 8.0
    assert config_lib.radius(config) == pytest.approx(8 / 255)
    assert config_lib.step_size(config, "attack") == pytest.approx(2 / 255)
    config.attack.step_size_255 = 1.0
    assert config_lib.step_size(config, "attack") == pytest.approx(1 / 255)
    config.threat.eps, config.eval.step_size = 0.3, 0.01
    assert config_lib.radius(config) == 0.3 and config_lib.step_size(config, "eval") == 0.01


def test_a_training_radius_of_its_own_goes_with_its_steps_alone():
    config = config_lib.default()
    config.threat.eps_255, config.attack.radius = 8.0, 0.5
    assert config_lib.attack_radius(config, "attack") == pytest.approx(4 / 255)
    assert config_lib.step_size(config, "attack") == pytest.approx(1 / 255)
    assert config_lib.attack_radius(config, "eval") == config_lib.radius(config) == pytest.approx(8 / 255)
    assert config_lib.step_size(config, "eval") == pytest.approx(2 / 255)


def test_json_round_trip():
    config = config_lib.default()
    config.threat.eps = 0.25
    config.data.augment = ("crop", "flip")
    stored = json.loads(json.dumps(config_lib.to_dict(config)))
    restored = config_lib.from_dict(stored)
    assert restored.to_dict() == config.to_dict() and restored.data.augment == ("crop", "flip")
    assert config_lib.differences(stored, config_lib.to_dict(restored)) == {}


def test_differences_name_the_fields():
    one, other = config_lib.default(), config_lib.default()
    other.train.seed, other.eval.attacks = 1, ("clean",)
    found = config_lib.differences(config_lib.to_dict(one), config_lib.to_dict(other))
    assert found.keys() == {"train.seed", "eval.attacks"} and found["train.seed"] == (0, 1)
