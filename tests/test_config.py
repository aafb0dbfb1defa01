"""The default config, its table and its forms."""

import json

import pytest

from jaxrobust import config as config_lib, files
from jaxrobust.config.fields import FIELDS, SECTIONS
from jaxrobust.training import optimizers


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


def test_the_table_is_the_default():
    """Every field has a meaning and a section, and its default is allowed."""
    values = files.flatten(config_lib.default().to_dict())
    assert set(values) == set(FIELDS)
    for name, field in FIELDS.items():
        assert values[name] == field.default and field.meaning and name.split(".")[0] in SECTIONS
        field.check(values[name])


def test_two_defaults_share_nothing():
    one, other = config_lib.default(), config_lib.default()
    one.threat.eps = 0.5
    assert other.threat.eps is None


def test_the_names_in_the_table_are_those_of_the_optimizers():
    """The table stands below the training, so it cannot ask."""
    assert FIELDS["optimizer.name"].allowed.text == " | ".join(optimizers.NAMES)
    assert FIELDS["optimizer.schedule"].allowed.text == " | ".join(optimizers.SCHEDULES)


@pytest.mark.parametrize(
    "objective, given, mode",
    [
        *((name, "as_published", "eval") for name in ("trades", "mart", "bat", "variance_penalty")),
        *((name, "as_published", "train") for name in ("pgd_at", "fgsm_rs", "n_fgsm", "free", "standard")),
        ("trades", "train", "train"),
        ("pgd_at", "eval", "eval"),
    ],
)
def test_attacks_see_the_model_in_the_published_mode_unless_it_is_given(objective, given, mode):
    assert config_lib.attack_batch_norm(objective, given) == mode


def test_a_mode_that_is_given_is_not_another_config_than_the_same_by_default():
    stored, now = (config_lib.to_dict(config_lib.default()) for _ in range(2))
    stored["attack"]["batch_norm"] = "train"
    assert config_lib.differences(stored, now) == {}
    for config in (stored, now):
        config["objective"]["name"] = "trades"
    assert config_lib.differences(stored, now) == {"attack.batch_norm": ("train", "as_published")}
