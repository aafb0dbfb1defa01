import numpy as np
from scipy.special import log_softmax

from jaxrobust.attacks import losses

LOGITS = np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [1.0, 4.0, 4.5]], np.float32)


def test_cross_entropy_is_minus_log_softmax():
    expected = [-log_softmax(LOGITS[0])[0], -log_softmax(LOGITS[1])[0], -log_softmax(LOGITS[2])[1]]
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, np.array([0, 0, 1])), expected, rtol=1e-5)


def test_margin_by_hand():
    np.testing.assert_allclose(losses.margin(LOGITS, np.array([0, 0, 1])), [-1.5, 0.2, 0.5], rtol=1e-5)


def test_margin_is_positive_exactly_where_misclassified():
    logits = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 7, 500)
    np.testing.assert_array_equal(losses.margin(logits, labels) > 0, logits.argmax(1) != labels)
