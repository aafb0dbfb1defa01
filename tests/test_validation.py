"""Good configs pass; wrong ones are named."""

import pathlib

import pytest

from jaxrobust import config as config_lib
from jaxrobust.config import validation
from jaxrobust.errors import FieldError

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").rglob("*.py"))
CONFIGS = [path for path in CONFIGS if path.parent.name != "studies"]  # those are no configs: see test_studies.py


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_configs_are_valid(path):
    validation.validate(config_lib.given(path, "--config"), device_count=1)


def test_default_is_valid_and_locked():
    config = config_lib.default()
    validation.validate(config, device_count=1)
    with pytest.raises(AttributeError):
        config.train.epoch = 3


WRONG = {
    "data.name": ["cifar10", "tfds:", "npz:x"],
    "data.augment": [("rotate",), ("flip", "flip"), ("resized_crop",)],
    "data.streaming": [True],  # the default set is bundled
    "data.image_size": [-1],
    "data.crop_scale": [(0.0, 1.0), (0.5, 0.1), (0.5, 1.5), (0.5,)],
    "data.pad": [-1],
    "data.pad_mode": ["wrap"],
    "data.validation_per_class": [-1],
    "model.name": ["resnet1818"],
    "model.dtype": ["float16"],
    "model.stem": ["7x7"],
    "model.shortcut": ["none"],
    "model.batch_norm": ["group"],
    "model.std": [(0.0,), (), (float("nan"),)],
    "model.mean": [(), (float("nan"),)],
    "model.width": [-4],
    "model.hidden": [(0,)],
    "data.seed": [-1],
    "train.seed": [-1],
    "eval.seed": [-1],
    "optimizer.decay_factor": [-1.0],
    "threat.norm": ["l7"],
    "threat.eps_255": [-1.0, 0.031, 2000.0, float("nan"), float("inf")],
    "threat.eps": [-0.1, 8.0, float("nan")],
    "attack.steps": [0],
    "data.imbalance": ["exp"],
    "data.imbalance_ratio": [0.0, 1.5, -0.1, float("nan")],
    "attack.restarts": [0],
    "attack.batch_norm": ["both"],
    "attack.step_size_255": [0.0, 0.007, -2.0, 100.0],
    "attack.step_size": [2.0],
    "eval.step_size": [2.0],
    "objective.name": ["tradess"],
    "objective.label_smoothing": [1.0, -0.1],
    "remedy.name": ["magic", "", "none+ldam", "ldam+ldam"],
    "remedy.counts": ["guess"],
    "remedy.counts_decay": [1.0, -0.1],
    "remedy.begin": [1.0, -0.1, 0.999],
    "remedy.observe": ["test"],
    "remedy.reweight.weighting": ["magic"],
    "remedy.reweight.beta": [1.0],
    "remedy.resample.sampling": ["magic"],
    "remedy.ldam.largest_margin": [-0.1],
    "remedy.logit_adjustment.tau": [-1.0],
    "remedy.robust_lt.strength": [1.1, -0.1],
    "remedy.frl.variant": ["none"],
    "remedy.frl.limit": [1.0],
    "remedy.cfa.average_threshold": [1.0],
    "remedy.cfa.radius_base": [-0.5],
    "remedy.wat.eta": [-1.0, float("nan")],
    "remedy.faal.divergence": [-0.1],
    "remedy.cfol.gamma": [-0.1],
    "objective.beta": [-1.0],
    "objective.climb": ["hinge"],
    "objective.replays": [0],
    "objective.awp_gamma": [-0.01],
    "attack.radius_warmup": [1.0, -0.1],
    "optimizer.name": ["lion"],
    "optimizer.schedule": ["step"],
    "optimizer.learning_rate": [-0.1, float("nan")],
    "optimizer.momentum": [1.0],
    "optimizer.milestones": [(0.75, 0.5), (0.5, 0.5), (100.0,)],
    "optimizer.warmup": [1.0, 0.6],
    "train.epochs": [0],
    "train.batch_size": [0, 100],
    "train.average_decay": [1.0],
    "eval.attacks": [(), ("clean", "pgd")],
    "eval.batch_size": [12],
    "eval.examples": [-5],
    "checkpoint.every_epochs": [0],
    "checkpoint.best": ["median"],
    "checkpoint.best_attack": ["pgd99"],
}


@pytest.mark.parametrize("field, value", [(field, value) for field, values in WRONG.items() for value in values])
def test_wrong_values_are_named(field, value):
    """On eight devices. The message is one line that starts with the field and holds the value."""
    config = config_lib.default()
    if field == "threat.eps_255":
        config.attack.step_size_255 = None
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(FieldError) as error:
        validation.validate(config, device_count=8)
    message = str(error.value)
    assert message.startswith(field) and "\n" not in message and ";" in message
    values = value if isinstance(value, tuple) and value else (value,)
    assert any(repr(v) in message for v in (value, *values))


def test_wrong_unit_is_guessed():
    config = config_lib.default()
    config.threat.eps_255 = 0.031
    with pytest.raises(FieldError, match=r"looks like a fraction.*write 7\.9"):
        validation.validate(config, 1)


def test_l2_radii_in_another_unit_are_noticed():
    config = config_lib.default()
    config.threat.norm = "l2"
    with pytest.raises(FieldError, match=r"threat\.eps_255 = 8\.0: is very small for an L2 radius"):
        validation.validate(config, 1)
    config.threat.eps_255 = 128.0
    validation.validate(config, 1)
    validation.check_images(config, (32, 32, 3))
    config.threat.eps = 128.0
    with pytest.raises(FieldError, match=r"threat\.eps = 128\.0: .*55\.4"):
        validation.check_images(config, (32, 32, 3))


def test_streamed_images_are_cropped_before_anything_else():
    config = config_lib.default()
    config.data.name, config.data.streaming, config.data.image_size = "tfds:imagenet2012", True, 224
    config.data.augment = ("resized_crop", "flip")
    validation.validate(config, 1)
    config.data.augment = ("flip", "resized_crop")
    with pytest.raises(FieldError, match=r"^data.augment = .*'resized_crop' is done first; write it first"):
        validation.validate(config, 1)


def test_an_evaluation_need_not_hold_the_attack_that_chose_the_best():
    config = config_lib.default()
    config.checkpoint.best_attack = "pgd99"
    validation.validate(config, 1, training=False)


def test_radius_zero_is_allowed():
    config = config_lib.default()
    config.threat.eps_255 = 0.0
    validation.validate(config, 1)


def test_evaluation_only_of_checkpoints():
    config = config_lib.default()
    config.checkpoint.every_epochs, config.eval.every_epochs = 2, 3
    with pytest.raises(FieldError, match=r"eval\.every_epochs = 3"):
        validation.validate(config, 1)


@pytest.mark.parametrize(
    "changes, field, hint",
    [
        ({"objective.name": "fgsm_rs"}, "attack.steps", "set attack.steps = 1"),
        (
            {"objective.name": "free", "attack.steps": 1, "objective.awp_gamma": 0.01},
            "objective.awp_gamma",
            "set it to 0",
        ),
        ({"remedy.name": "robal"}, "model.head", "model.head = cosine"),
        ({"remedy.name": "dafa", "remedy.dafa.begin": 0.0}, "remedy.dafa.begin", "published value is 0.64"),
        ({"remedy.name": "dafa", "train.epochs": 1}, "train.epochs", "train for 2 epochs or more"),
        ({"remedy.name": "cfa", "remedy.cfa.radius_base": 8.0}, "remedy.cfa.radius_base", "a share such as 0.5"),
        ({"remedy.name": "frl"}, "remedy.observe", "remedy.observe = validation"),
        ({"remedy.name": "frl", "remedy.observe": "validation"}, "data.validation_per_class", "hold out some images"),
        ({"remedy.name": "cfa", "remedy.cfa.average": True}, "data.validation_per_class", "hold out some images"),
        (
            {
                "remedy.name": "cfa",
                "remedy.cfa.average": True,
                "data.validation_per_class": 5,
                "train.average_decay": 0.0,
            },
            "train.average_decay",
            "set it above 0",
        ),
        ({"remedy.name": "fair_ard", "objective.name": "free", "attack.steps": 1}, "remedy.name", "another objective"),
        (
            {
                "remedy.name": "fair_ard",
                "objective.name": "standard",
                "remedy.observe": "validation",
                "data.validation_per_class": 5,
            },
            "remedy.name",
            "another objective",
        ),
        ({"remedy.name": "fair_tat", "objective.name": "standard"}, "remedy.name", "target_logit"),
        ({"remedy.name": "spectral", "objective.name": "standard"}, "remedy.name", "confusion_weight"),
        ({"remedy.name": "robust_lt", "objective.name": "standard"}, "remedy.name", "radius_scale"),
        ({"objective.name": "free"}, "attack.steps", "set attack.steps = 1"),
        ({"objective.name": "free", "attack.steps": 1, "attack.restarts": 2}, "attack.restarts", "set it to 1"),
        ({"remedy.name": "cfa+robust_lt"}, "remedy.name", "leave out"),
    ],
)
def test_what_does_not_go_together_is_named(changes, field, hint):
    config = config_lib.default()
    config.update_from_flattened_dict(changes)
    with pytest.raises(FieldError) as error:
        validation.validate(config, 1)
    assert str(error.value).startswith(field) and hint in str(error.value)
