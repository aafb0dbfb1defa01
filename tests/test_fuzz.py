"""No field of the config and no argument of the library takes what it cannot mean, or ends in anything but one line.

The longer form, over files, environments and command lines too, is run by hand: tests/fuzz/drive.py.
"""

import importlib.util
import pathlib
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy

import jaxrobust as jr
from jaxrobust import config as config_lib
from jaxrobust.config import validation
from jaxrobust.config.fields import FIELDS
from jaxrobust.errors import FieldError, UserError

HERE = pathlib.Path(__file__).parent / "fuzz"


@pytest.fixture(scope="module")
def cases():
    """The module of the longer form, for its tables."""
    spec = importlib.util.spec_from_file_location("fuzz_cases", HERE / "cases.py")
    sys.modules["fuzz_cases"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz_cases"]


def is_one_line(error: UserError) -> bool:
    text = str(error)
    return "\n" not in text and len(text) < 2000 and ": " in text and "; " in text


@pytest.mark.parametrize("name", FIELDS)
def test_nonsense_in_a_field_is_refused_by_name(cases, name):
    for value in cases.nonsense(FIELDS[name].default):
        with pytest.raises(FieldError) as raised:
            FIELDS[name].check(value)
        assert raised.value.field == name and is_one_line(raised.value)


anything = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=20)
    | strategies.sampled_from(
        [0, 1, -1, 0.5, 1e30, 2**31, 2**63, 10**30, "pgd20", "clean", "digits", ("clean", "pgd5")]
    ),
    lambda inner: strategies.lists(inner, max_size=3).map(tuple) | strategies.lists(inner, max_size=3),
    max_leaves=4,
)
few = hypothesis.settings(max_examples=150, deadline=None, database=None, derandomize=True)


@few
@hypothesis.given(strategies.dictionaries(strategies.sampled_from(sorted(FIELDS)), anything, min_size=1, max_size=2))
def test_any_config_is_valid_or_named_in_one_line(fields):
    config = config_lib.default()
    try:
        config_lib.put(config, fields)
        validation.validate(config, device_count=8)
        validation.check_images(config, (8, 8, 1))
    except UserError as error:
        assert is_one_line(error)


_CALLS = """attack(images) attack(labels) attack(attack) attack(norm) attack(eps) attack(step_size) attack(batch_size)
    attack(seed) attack(logits_fn) predict(images) predict(batch_size) Linf L2 L1 Threat(norm) classwise_table(labels)
    classwise_table(verdicts) classwise_table(class_names) classwise_table(confidence) compare(labels)
    compare(verdicts_a) compare(class_names) compare(confidence) compare(worst_a) load_run(step) load_run(weights)
    from_arrays(train) from_arrays(test) from_arrays(validation) from_arrays(validation_per_class)
    from_arrays(class_names) from_arrays(seed) from_arrays(images) from_arrays(labels) load(validation_per_class)
    load(seed) load(streaming) load(image_size) load(imbalance_profile) load(imbalance_ratio) load(drop) load(merge)
    load(shares)"""


@pytest.mark.parametrize("name", _CALLS.split())
def test_any_argument_is_taken_or_named_in_one_line(cases, name):
    call, refused = cases.calls()[name], 0
    for value in cases.ANYTHING:
        try:
            call(value)
        except UserError as error:
            assert is_one_line(error)
            refused += 1
    assert refused >= len(cases.ANYTHING) / 3


arrays = numpy.arrays(
    strategies.sampled_from(["u1", "f4", "f8", "i8", "u8", "?", "c8", "U2", "M8[s]"]),
    numpy.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
)
images = numpy.arrays(strategies.sampled_from(["u1", "f4"]), (6, 2, 2, 1), elements=strategies.sampled_from([0, 1, 9]))
labels = numpy.arrays("i8", 6, elements=strategies.integers(-1, 2))
pairs = strategies.tuples(images | arrays, labels | arrays) | strategies.lists(arrays, max_size=3) | anything


@few
@hypothesis.given(
    pairs, strategies.none() | pairs, strategies.none() | strategies.lists(strategies.text(max_size=2)) | anything
)
def test_any_arrays_are_a_data_set_or_named_in_one_line(train, test, class_names):
    try:
        made = jr.Dataset.from_arrays(train, test, class_names=class_names)
    except UserError as error:
        assert is_one_line(error)
    else:
        assert made.train.counts(made.num_classes).min() > 0 and made.num_classes == len(set(made.class_names)) > 1
        assert made.train.images.dtype in (np.uint8, np.float32) and made.train.images.min() >= 0


@pytest.mark.parametrize(
    "row, field",
    [
        ("threat.eps=1e-45", "threat.eps"),
        ("attack.radius=1e-40", "attack.radius"),
        ("data.pad=1000000", "data.pad"),
        ("model.std=(1e38,)", "model.std"),
        ("model.mean=(123.7,)", "model.mean"),
        ("remedy.name=ldam+", "remedy.name"),
        ("remedy.fixed.radius=('3:1e9',)", "remedy.fixed.radius"),
        ("attack.steps=1000000000", "attack.steps"),
        ("optimizer.learning_rate=1e30", "optimizer.learning_rate"),
        ("attack.step_size=0.0", "attack.step_size"),
        ("attack.step_size=0.5", "attack.step_size"),
        ("train.seed=-1", "train.seed"),
        ("train.epochs=" + "9" * 30, "train.epochs"),
        ("eval.attacks=('clean','clean')", "eval.attacks"),
        ("eval.attacks=('pgd1000000000',)", "eval.attacks"),
        ("eval.attacks=('pgd20 ',)", "eval.attacks"),
    ],
)
def test_nonsense_does_not_run(cases, tmp_path, row, field):
    """On the command line: exit code 2 and one line that names the field."""
    fixed = ["--config.remedy.name=fixed"] if "fixed" in row else []
    with pytest.raises(cases.Refused) as raised:
        cases.command("train", "--config", cases.TINY, f"--config.{row}", *fixed, "--workdir", str(tmp_path / "run"))()
    assert raised.value.is_one_line and f"{field} = " in str(raised.value)


def test_padding_is_smaller_than_the_image():
    config = config_lib.default()
    config.data.augment, config.data.pad = ("crop",), 8
    with pytest.raises(FieldError, match=r"^data.pad = 8: is the size of an image of 8 x 8"):
        validation.check_images(config, (8, 8, 1))
    validation.check_images(config, (9, 9, 1))


@pytest.mark.parametrize("kind", ["of_files", "of_environments"])
def test_files_and_environments_end_in_one_line(cases, tmp_path, kind):
    for case in getattr(cases, kind)(tmp_path):
        try:
            case.call()
            accepted = True
        except UserError as error:
            accepted = not is_one_line(error)
        except cases.Refused as error:
            accepted = not error.is_one_line
        assert not (case.is_nonsense and accepted), case.name


def test_numbers_of_numpy_are_numbers():
    config = config_lib.default()
    config_lib.put(config, {"train.epochs": np.int64(3), "threat.eps": np.float32(0.5), "data.drop": ["1"]})
    assert (config.train.epochs, config.threat.eps, config.data.drop) == (3, 0.5, ("1",))
