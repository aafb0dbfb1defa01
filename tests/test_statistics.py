"""Class statistics of a batch against sums written out."""

import numpy as np
from scipy.special import softmax

from jaxrobust.training import class_statistics
from jaxrobust.training.class_statistics import Seen

CLASSES = 3
RNG = np.random.default_rng(0)
LOGITS, NATURAL = RNG.normal(size=(2, 20, CLASSES)).astype(np.float32)
LABELS = RNG.integers(-1, CLASSES, 20)
LOSSES, WITHSTOOD = RNG.uniform(size=20).astype(np.float32), RNG.integers(0, 5, 20)


def by_class(values):
    return np.stack([values[c == LABELS].sum(0) for c in range(CLASSES)])


def test_every_statistic_by_hand_and_without_what_is_no_image():
    seen = Seen(LABELS, LOGITS, LOSSES, NATURAL, WITHSTOOD)
    actual = class_statistics.of_batch(class_statistics.NAMES, seen)
    p, own = softmax(LOGITS, 1), np.eye(CLASSES, dtype=bool)[LABELS]
    shrunk = LOGITS - 0.1 * np.abs(LOGITS) * own
    expected = {
        "count": by_class(np.ones(20)),
        "correct": by_class(LOGITS.argmax(1) == LABELS),
        "loss": by_class(LOSSES),
        "natural_correct": by_class(NATURAL.argmax(1) == LABELS),
        "margin": by_class(p[own] - np.where(own, 0, p).max(1)),
        "confusion": by_class(np.eye(CLASSES)[LOGITS.argmax(1)]),
        "shrunk_confusion": by_class(np.eye(CLASSES)[shrunk.argmax(1)]),
        "probability": by_class(p),
        "steps_withstood": by_class(WITHSTOOD),
    }
    assert set(actual) == set(expected) == set(class_statistics.NAMES) and -1 in LABELS
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, err_msg=name)


def test_sums_of_batches_are_those_of_the_whole():
    halves = [
        Seen(*(array[part] for array in (LABELS, LOGITS, LOSSES, NATURAL, WITHSTOOD)))
        for part in (slice(0, 12), slice(12, 20))
    ]
    total = class_statistics.zeros(("confusion", "margin"), CLASSES)
    assert set(total) == {"count", "correct", "loss", "confusion", "margin"}
    for half in halves:
        total = class_statistics.add(total, class_statistics.of_batch(("confusion", "margin"), half))
    whole = class_statistics.of_batch(("confusion", "margin"), Seen(LABELS, LOGITS, LOSSES, NATURAL, WITHSTOOD))
    for name in total:
        np.testing.assert_allclose(total[name], whole[name], rtol=1e-5, err_msg=name)
    assert total["confusion"].dtype == total["count"].dtype == np.int32
