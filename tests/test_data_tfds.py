"""TFDS: a prepared folder is read as written, without a network; what cannot be had is said quickly."""

import time

import numpy as np
import pytest
import streamed_sets

from jaxrobust import data
from jaxrobust.data.sources import tfds as source
from jaxrobust.errors import FieldError

import tensorflow as tf  # isort: skip
import tensorflow_datasets as tfds  # isort: skip

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 5, 3), np.uint8)
LABELS = np.arange(30) % 3


def write(data_dir, name="tiny", *, shape=(4, 5, 3), images=IMAGES, splits=None, **extra_features):
    """Prepares a TFDS folder of three classes; `splits` maps a name to a slice of the examples."""
    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "emu"]),
    } | extra_features
    features = {key: feature for key, feature in features.items() if feature is not None}

    def examples(part):
        def generate():
            for image, label in zip(images[part], LABELS[part], strict=True):
                example = {"image": image, "label": label, "weight": 0.5}
                yield {key: example[key] for key in features}

        signature = tfds.features.FeaturesDict(features).get_tensor_spec()
        return tf.data.Dataset.from_generator(generate, output_signature=signature)

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={s: examples(p) for s, p in (splits or {"train": slice(20), "test": slice(20, 30)}).items()},
        data_dir=str(data_dir),
        disable_shuffling=True,
    )


@pytest.mark.parametrize("test_split", ["test", "validation"])
def test_round_trip_in_order(tmp_path, monkeypatch, test_split):
    monkeypatch.setattr(source, "READ_BATCH", 8)  # neither split is a multiple of it
    write(
        tmp_path,
        splits={"train": slice(20), test_split: slice(20, 30)},
        weight=tfds.features.Scalar(np.float32),  # a feature that is not read
    )
    assert data.is_there("tfds:tiny", str(tmp_path))
    assert data.describe("tfds:tiny", data_dir=str(tmp_path)) == data.Description("tfds:tiny", (4, 5, 3), 3, 20)
    loaded = data.load("tfds:tiny", data_dir=str(tmp_path))
    assert loaded.name == "tfds:tiny" and loaded.class_names == ("cat", "dog", "emu")
    np.testing.assert_array_equal(loaded.train.images, IMAGES[:20])
    np.testing.assert_array_equal(loaded.train.labels, LABELS[:20])
    np.testing.assert_array_equal(loaded.test.images, IMAGES[20:])
    np.testing.assert_array_equal(loaded.test.labels, LABELS[20:])


def test_folder_from_the_environment_and_an_undeclared_size(tmp_path, monkeypatch):
    write(tmp_path, shape=(None, None, 3))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    np.testing.assert_array_equal(data.load("tfds:tiny").train.images, IMAGES[:20])


def test_prepared_version_other_than_the_installed_one(tmp_path):
    write(tmp_path, "mnist")  # TFDS would prepare another version than 1.0.0
    np.testing.assert_array_equal(data.load("tfds:mnist", data_dir=str(tmp_path)).test.images, IMAGES[20:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"shape": (None, None, 3), "images": [IMAGES[0][: 2 + i % 2] for i in range(30)]},
            r"has images of \(3, 5, 3\) and of \(2, 5, 3\); choose a set of equally sized images",
        ),
        ({"splits": {"train": slice(20)}}, r"has no validation split, only \['train'\]"),
        ({"splits": {"test": slice(20)}}, r"has no train split, only \['test'\]"),
        ({"label": None}, r"has no ClassLabel feature 'label', only \['image'\]"),
    ],
)
def test_unusable_sets(tmp_path, arguments, message):
    write(tmp_path, **arguments)
    with pytest.raises(FieldError, match=rf"^data.name = 'tfds:tiny': {message}"):
        data.load("tfds:tiny", data_dir=str(tmp_path))


def test_truncated_file(tmp_path):
    write(tmp_path)
    file = next(tmp_path.glob("tiny/1.0.0/*train*"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(FieldError, match=r"cannot be read .*; restore it or prepare it again"):
        data.load("tfds:tiny", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifr10", r"is unknown to TFDS .*; did you mean .*cifar10"),
        ("qqqqqq", r"is unknown to TFDS .*; choose one of tensorflow.org/datasets/catalog"),
        ("cifar10/qqqqqq", r"cannot be used \(ValueError: .*; correct the name"),
        ("cifar10:99.0.0", r"cannot be used \(AssertionError: .*; correct the name"),
        (
            "imagenet2012",
            r"preparing it failed \(.*Manual directory .*`tfds.builder\('imagenet2012', data_dir=DIR\)\.down",
        ),
    ],
)
def test_unavailable_names(tmp_path, name, message):
    with pytest.raises(FieldError, match=message) as error:
        data.load(f"tfds:{name}", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def test_without_a_network_the_error_comes_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    start = time.monotonic()
    with pytest.raises(FieldError, match=r"is not prepared in .*www.cs.toronto.edu cannot be reached .*set data.data"):
        data.load("tfds:cifar10", data_dir=str(tmp_path))
    assert time.monotonic() - start < 100
    assert not any(tmp_path.iterdir())


def test_a_set_is_prepared_as_it_will_be_read(tmp_path, monkeypatch):
    """As ArrayRecord, TFDS's other format, to be streamed; then it can also be read into memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "sets"
    streamed_sets.Fixed(data_dir=folder)  # registers the name
    with monkeypatch.context() as patch:
        patch.setattr(tfds, "builder", lambda name, data_dir: streamed_sets.Fixed(data_dir=data_dir))
        streamed = streamed_sets.load(folder)
        assert len(list(folder.rglob("*.array_record*"))) == 2
        np.testing.assert_array_equal(streamed.test.images, streamed_sets.IMAGES[50:])
        other = data.load("tfds:fixed", data_dir=str(tmp_path / "other"))
        assert len(list((tmp_path / "other").rglob("*.tfrecord*"))) == 2
    for loaded in (other, data.load("tfds:fixed", data_dir=str(folder))):
        np.testing.assert_array_equal(loaded.train.images, streamed.train.images)
        np.testing.assert_array_equal(loaded.train.labels, streamed.train.labels)
