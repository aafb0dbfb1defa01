"""Data sets made of arrays: what goes in comes out, and what is wrong is named."""

import doctest

import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.data import dataset
from jaxrobust.errors import FieldError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (30, 4, 5, 3), np.uint8), np.arange(30) % 3


def test_examples_of_the_docstrings():
    assert doctest.testmod(dataset).failed == 0


def test_arrays_come_out_as_they_were():
    made = data.Dataset.from_arrays((IMAGES, LABELS), (IMAGES[:7], LABELS[:7]), class_names=("a", "b", "c"))
    np.testing.assert_array_equal(made.train.images, IMAGES)
    np.testing.assert_array_equal(made.test.labels, LABELS[:7])
    assert made.class_names == ("a", "b", "c") and len(made.validation) == 0


def test_validation_is_held_out_as_by_the_commands(tmp_path):
    np.savez(tmp_path / "set.npz", train_images=IMAGES, train_labels=LABELS, test_images=IMAGES, test_labels=LABELS)
    read = data.load(f"arrays:{tmp_path / 'set.npz'}", validation_per_class=2, seed=5)
    made = data.Dataset.from_arrays((IMAGES, LABELS), (IMAGES, LABELS), validation_per_class=2, seed=5)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(made, name).images, getattr(read, name).images)
        np.testing.assert_array_equal(getattr(made, name).labels, getattr(read, name).labels)
    assert made.class_names == read.class_names


@pytest.mark.parametrize(
    "arguments, field, problem",
    [
        ({"train": (IMAGES.astype(np.float64), LABELS)}, "train", "divide them by 255"),
        ({"train": (IMAGES, LABELS - 1)}, "train", "hold -1"),
        ({"train": (IMAGES, np.where(LABELS == 2, 10**12, LABELS))}, "train", "hold 1000000000000 (at index 2)"),
        ({"train": (IMAGES / 255, LABELS), "test": (IMAGES / 255**2, LABELS)}, "test", "divided by 255 twice"),
        ({"train": (IMAGES, LABELS[0])}, "class_names", "has 1 class;"),
        ({"train": 5}, "train", "pair of arrays"),
        ({"train": (IMAGES,)}, "train", "pair of arrays"),
        ({"train": (IMAGES, LABELS), "class_names": 3}, "class_names", "no sequence of names"),
        ({"train": (IMAGES, LABELS[:5])}, "train", "30 train images but 5 train labels"),
        ({"train": IMAGES}, "train", "pair of arrays"),
        ({"train": (IMAGES, LABELS / 2)}, "class_names", "has 0 classes"),
        (
            {"train": (IMAGES, LABELS), "class_names": ("a", "b", "c", "d")},
            "train",
            "'d' (label 3) has no training example",
        ),
        ({"train": (IMAGES, LABELS), "class_names": "abc"}, "class_names", "no sequence of names"),
        ({"train": (IMAGES, LABELS), "class_names": ("a", "b", "a")}, "class_names", "two classes are called 'a'"),
        ({"train": (IMAGES, LABELS), "class_names": ("a", "b", "\x1b[2J")}, "class_names", "has a class called"),
        ({"train": (IMAGES, LABELS), "test": (IMAGES / 255, LABELS)}, "test", "float32"),
        ({"train": (IMAGES, LABELS), "validation": (IMAGES[:, :3], LABELS)}, "validation", "(3, 5, 3)"),
        ({"train": (IMAGES, LABELS), "validation_per_class": 10}, "validation_per_class", "use at most 9"),
    ],
)
def test_what_is_wrong_is_named(arguments, field, problem):
    with pytest.raises(FieldError) as raised:
        data.Dataset.from_arrays(**arguments)
    assert str(raised.value).startswith(f"{field} = ") and problem in str(raised.value)
