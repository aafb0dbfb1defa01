import jax
import jax.test_util
import numpy as np
import pytest
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


LABELS, TARGETS = np.array([0, 2, 1]), np.array([2, 0, 3])
FOUR = np.array([[2.0, 0.5, -1.0, 1.0], [0.1, 0.2, 0.3, -0.2], [1.0, 4.0, 4.5, 3.0]], np.float32)


def test_dlr_by_hand():
    """-(z_y - best other) / (first - third)."""
    expected = [-(2.0 - 1.0) / (2.0 - 0.5), -(0.3 - 0.2) / (0.3 - 0.1), -(4.0 - 4.5) / (4.5 - 3.0)]
    np.testing.assert_allclose(losses.dlr(FOUR, LABELS), expected, rtol=1e-5)


def test_targeted_losses_by_hand():
    difference = np.array([-1.0 - 2.0, 0.1 - 0.3, 3.0 - 4.0])
    np.testing.assert_allclose(losses.targeted_margin(FOUR, LABELS, TARGETS), difference, rtol=1e-5)
    denominator = [2.0 - (0.5 - 1.0) / 2, 0.3 - (0.1 - 0.2) / 2, 4.5 - (3.0 + 1.0) / 2]
    np.testing.assert_allclose(losses.targeted_dlr(FOUR, LABELS, TARGETS), difference / denominator, rtol=1e-5)
    expected = log_softmax(FOUR, axis=1)[np.arange(3), TARGETS]
    np.testing.assert_allclose(losses.targeted_cross_entropy(FOUR, LABELS, TARGETS), expected, rtol=1e-5)


def test_three_and_two_classes():
    three, labels, targets = FOUR[:, :3], np.array([0, 2, 1]), np.array([2, 0, 0])
    expected = [(-1.0 - 2.0) / 3.0, (0.1 - 0.3) / 0.2, (1.0 - 4.0) / 3.5]
    np.testing.assert_allclose(losses.targeted_dlr(three, labels, targets), expected, rtol=1e-5)
    two, labels, targets = FOUR[:, :2], np.array([0, 1, 0]), np.array([1, 0, 1])
    np.testing.assert_array_equal(losses.dlr(two, labels), losses.margin(two, labels))
    np.testing.assert_allclose(losses.targeted_dlr(two, labels, targets), losses.margin(two, labels), rtol=1e-6)


def test_name_in_use_says_what_runs():
    assert [losses.name_in_use("dlr", classes) for classes in (2, 3, 10)] == ["margin", "dlr", "dlr"]
    names = [losses.name_in_use("dlr", classes, targeted=True) for classes in (2, 3, 4)]
    assert names == ["targeted margin", "targeted dlr, denominator z1 - z3", "targeted dlr"]
    assert losses.name_in_use("cross_entropy", 2) == "cross_entropy"


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_dlr_does_not_change_with_shift_and_scale(classes):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(100, classes)).astype(np.float32)
    labels = rng.integers(0, classes, 100)
    targets = (labels + rng.integers(1, classes, 100)) % classes
    for other in (100 * logits, logits / 64, logits + 5):
        np.testing.assert_allclose(losses.dlr(other, labels), losses.dlr(logits, labels), rtol=1e-3, atol=1e-4)
        expected = losses.targeted_dlr(logits, labels, targets)
        np.testing.assert_allclose(losses.targeted_dlr(other, labels, targets), expected, rtol=1e-3, atol=1e-4)


def test_sign_of_dlr_says_whether_misclassified():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(500, 7)).astype(np.float32), rng.integers(0, 7, 500)
    np.testing.assert_array_equal(losses.dlr(logits, labels) > 0, logits.argmax(1) != labels)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(6, 5)).astype(np.float32), rng.integers(0, 5, 6)
    targets = (labels + 1) % 5
    for loss in (
        lambda z: losses.LOSSES[name](z, labels).sum(),
        lambda z: losses.TARGETED_LOSSES[name](z, labels, targets).sum(),
    ):
        jax.test_util.check_grads(loss, (logits,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_equal_logits_have_finite_gradients():
    """A constant model, as a broken one may be."""
    logits, labels = np.zeros((2, 5), np.float32), np.array([0, 1])
    for loss in losses.LOSSES.values():
        assert np.isfinite(jax.grad(lambda z, loss=loss: loss(z, labels).sum())(logits)).all()
