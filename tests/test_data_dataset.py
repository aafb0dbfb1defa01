"""A data set's fingerprint tells it from others."""

import dataclasses

import numpy as np
import pytest

from jaxrobust.data import Dataset
from jaxrobust.data.dataset import Split

RNG = np.random.default_rng(0)
SPLIT = Split(RNG.integers(0, 256, (20, 4, 4, 1), np.uint8), RNG.integers(0, 3, 20).astype(np.int32))
DATA = Dataset("set", ("a", "b", "c"), SPLIT, SPLIT.take(slice(0, 0)), SPLIT)


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": ("a", "b", "d")},
        {"train": SPLIT.take(slice(0, 19))},
        {"train": Split(SPLIT.images, np.roll(SPLIT.labels, 1))},
        {"test": Split(SPLIT.images ^ 1, SPLIT.labels)},
    ],
)
def test_other_data_have_another_fingerprint(change):
    same = dataclasses.replace(DATA, train=SPLIT.take(np.arange(20)), name="a copy")
    assert same.fingerprint() == DATA.fingerprint() != dataclasses.replace(DATA, **change).fingerprint()
