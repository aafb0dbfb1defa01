import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jaxrobust import objectives
from jaxrobust.attacks import losses
from jaxrobust.remedies import knobs as knobs_lib

CLASSES = 4
LOGITS = np.random.default_rng(0).normal(size=(6, CLASSES)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 1])
NEUTRAL = knobs_lib.neutral(CLASSES)


def forward(batch_stats, images):
    """Images stand for their own logits."""
    return images, {"passes": batch_stats["passes"] + 1}


def losses_of(objective, knobs=NEUTRAL, perturbed=()):
    return objective.loss(forward, {"passes": 0}, LOGITS, perturbed, LABELS, knobs)


def test_standard_is_cross_entropy_of_the_images():
    output = losses_of(objectives.create("standard"))
    np.testing.assert_allclose(output.losses, -log_softmax(LOGITS, 1)[np.arange(6), LABELS], rtol=1e-5)
    assert output.batch_stats == {"passes": 1}


def test_pgd_at_is_cross_entropy_of_the_adversarial_images_alone():
    adversarial = LOGITS[::-1]
    output = losses_of(objectives.create("pgd_at"), perturbed=adversarial)
    np.testing.assert_allclose(output.losses, losses.cross_entropy(adversarial, LABELS), rtol=1e-5)
    np.testing.assert_array_equal(output.logits, adversarial)
    assert output.batch_stats == {"passes": 1}


def test_pgd_at_attacks_the_plain_cross_entropy():
    asked = []
    objectives.create("pgd_at", label_smoothing=0.3).perturb(lambda *args: asked.append(args), None, LOGITS, LABELS)
    ((loss, images, labels),) = asked
    assert loss is losses.cross_entropy and images is LOGITS and labels is LABELS


def test_standard_attacks_nothing():
    assert objectives.create("standard").perturb(None, None, LOGITS, LABELS) == ()


def test_label_smoothing_by_hand():
    """(1 - s) of the true class's surprise plus s of the mean over all classes."""
    surprise = -log_softmax(LOGITS, 1)
    expected = 0.9 * surprise[np.arange(6), LABELS] + 0.1 * surprise.mean(1)
    output = losses_of(objectives.create("standard", label_smoothing=0.1))
    np.testing.assert_allclose(output.losses, expected, rtol=1e-5)


@pytest.mark.parametrize("name, knob", [("standard", "weight_natural"), ("pgd_at", "weight_robust")])
def test_weights_multiply_the_loss_of_their_class(name, knob):
    weights = jnp.array([0.5, 1.0, 2.0, 3.0])
    perturbed = LOGITS if name == "pgd_at" else ()
    plain = losses_of(objectives.create(name), perturbed=perturbed).losses
    weighted = losses_of(objectives.create(name), NEUTRAL.replace(**{knob: weights}), perturbed).losses
    np.testing.assert_allclose(weighted, weights[LABELS] * plain, rtol=1e-6)


def test_log_prior_is_the_balanced_softmax():
    """Balanced softmax (Ren et al. 2020): gradient softmax(z + log n) - onehot, unchanged by scaling n."""
    counts = jnp.array([10.0, 100.0, 5.0, 50.0])

    def gradient(scale):
        knobs = NEUTRAL.replace(log_prior=jnp.log(scale * counts))
        return jax.grad(lambda z: objectives.cross_entropy(z, LABELS, knobs, 0.0).sum())(LOGITS)

    expected = softmax(LOGITS + np.log(counts), axis=1) - np.eye(CLASSES)[LABELS]
    np.testing.assert_allclose(gradient(1.0), expected, atol=1e-6)
    np.testing.assert_allclose(gradient(7.0), expected, atol=1e-6)


def test_margin_lowers_the_true_logit():
    margin = jnp.array([0.1, 0.2, 0.3, 0.4])
    shifted = LOGITS - np.asarray(margin)[LABELS][:, None] * np.eye(CLASSES)[LABELS]
    expected = -log_softmax(shifted, 1)[np.arange(6), LABELS]
    actual = objectives.cross_entropy(LOGITS, LABELS, NEUTRAL.replace(margin=margin), 0.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
