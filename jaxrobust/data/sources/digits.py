"""The handwritten digits that are part of scikit-learn: no download, and training takes seconds."""

import numpy as np

from jaxrobust.data import randomness, splits
from jaxrobust.data.checks import RawDataset
from jaxrobust.data.dataset import Split

_TEST_PER_CLASS = 50
_NUM_CLASSES = 10
_INK_LEVELS = 16


def read() -> RawDataset:
    """1,297 training and 500 test images (50 per class), [N, 8, 8, 1] uint8.

    scikit-learn defines no split. The test split here is the same in every run, whatever the run's seed.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / _INK_LEVELS)).astype(np.uint8)[..., None]
    test = splits.stratified_mask(digits.target, _TEST_PER_CLASS, _NUM_CLASSES, randomness.generator(0, "digits test"))
    whole = Split(images, digits.target)
    return RawDataset(tuple(map(str, range(_NUM_CLASSES))), whole.take(~test), whole.take(test))
