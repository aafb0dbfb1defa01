import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jaxrobust import objectives
from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Attacked, Pgd
from jaxrobust.objectives.objective import cross_entropy
from jaxrobust.remedies import knobs as knobs_lib

CLASSES = 4
LOGITS = np.random.default_rng(0).normal(size=(6, CLASSES)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 1])
NEUTRAL = knobs_lib.neutral(CLASSES)


ROWS = np.arange(6)


def forward(batch_stats, images):
    """Images stand for their own logits."""
    return images, {"passes": batch_stats["passes"] + 1}


def losses_of(objective, knobs=NEUTRAL, adversarial=None, path=()):
    attacked = None if adversarial is None else Attacked(adversarial, None, path)
    return objective.loss(forward, {"passes": 0}, LOGITS, attacked, LABELS, knobs)


def create(name, **settings):
    return objectives.create(name, **settings)


def kl(p, q):
    return (p * np.log(p / q)).sum(1)


ADVERSARIAL = np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32)
P, Q = softmax(LOGITS, 1), softmax(ADVERSARIAL, 1)


def test_standard_is_cross_entropy_of_the_images():
    output = losses_of(create("standard"))
    np.testing.assert_allclose(output.losses, -log_softmax(LOGITS, 1)[ROWS, LABELS], rtol=1e-5)
    assert output.batch_stats == {"passes": 1}
    np.testing.assert_array_equal(output.natural_logits, LOGITS)


@pytest.mark.parametrize("name", ["pgd_at", "fgsm_rs", "n_fgsm", "free", "variance_penalty"])
def test_training_on_adversarial_images_alone(name):
    output = losses_of(create(name), adversarial=ADVERSARIAL)
    np.testing.assert_allclose(output.losses, losses.cross_entropy(ADVERSARIAL, LABELS), rtol=1e-5)
    np.testing.assert_array_equal(output.logits, ADVERSARIAL)
    assert output.batch_stats == {"passes": 1} and output.natural_logits is None


def test_trades_by_hand():
    """Also that of the published formula with the knobs of CFA: [CE + beta_y KL] / (1 + beta_y)."""
    output = losses_of(create("trades", beta=4.0), adversarial=ADVERSARIAL)
    natural = -np.log(P)[ROWS, LABELS]
    np.testing.assert_allclose(output.losses, natural + 4 * kl(P, Q), rtol=1e-5)
    np.testing.assert_allclose(output.unweighted, output.losses, rtol=1e-6)
    scale = jnp.array([0.5, 0.7, 0.9, 1.1])
    weight = 1 / (1 + 4 * scale)
    knobs = NEUTRAL.replace(beta_scale=scale, weight_natural=weight, weight_robust=weight)
    of_cfa = (natural + 4 * scale[LABELS] * kl(P, Q)) / (1 + 4 * scale[LABELS])
    output = losses_of(create("trades", beta=4.0), knobs, ADVERSARIAL)
    np.testing.assert_allclose(output.losses, of_cfa, rtol=1e-5)
    np.testing.assert_allclose(output.unweighted, natural + 4 * kl(P, Q), rtol=1e-5)


def test_mart_by_hand():
    rival = np.where(np.eye(CLASSES)[LABELS] > 0, 0, Q).max(1)
    expected = -np.log(Q)[ROWS, LABELS] - np.log(1 - rival) + 5 * kl(P, Q) * (1 - P[ROWS, LABELS])
    np.testing.assert_allclose(losses_of(create("mart", beta=5.0), adversarial=ADVERSARIAL).losses, expected, rtol=1e-5)


# Other values for each class, so that none can stand for another.
UNEVEN = NEUTRAL.replace(
    weight_natural=jnp.array([0.5, 0.8, 1.3, 2.0]),
    weight_robust=jnp.array([3.0, 0.4, 1.1, 0.7]),
    beta_scale=jnp.array([0.6, 1.7, 0.9, 1.2]),
)


def test_the_knobs_of_mart_by_hand():
    rival = np.where(np.eye(CLASSES)[LABELS] > 0, 0, Q).max(1)
    boosted = -np.log(Q)[ROWS, LABELS] - np.log(1 - rival)
    divergence = 5 * kl(P, Q) * (1 - P[ROWS, LABELS])
    expected = UNEVEN.weight_robust[LABELS] * (boosted + UNEVEN.beta_scale[LABELS] * divergence)
    output = losses_of(create("mart", beta=5.0), UNEVEN, ADVERSARIAL)
    np.testing.assert_allclose(output.losses, expected, rtol=1e-5)
    np.testing.assert_allclose(output.unweighted, boosted + divergence, rtol=1e-5)


def test_the_knobs_of_bat_by_hand():
    last = np.random.default_rng(2).normal(size=LOGITS.shape).astype(np.float32)
    uniform, r = np.full_like(P, 1 / CLASSES), softmax(last, 1)
    inner, outer = -np.log(r)[ROWS, LABELS] + kl(r, uniform), kl(Q, uniform)
    expected = UNEVEN.weight_natural[LABELS] * inner
    expected += UNEVEN.weight_robust[LABELS] * (UNEVEN.beta_scale[LABELS] * 6 * kl(P, Q) + outer)
    output = losses_of(create("bat"), UNEVEN, ADVERSARIAL, path=last)
    np.testing.assert_allclose(output.losses, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [5.0, 17.0, 60.0])
def test_mart_where_a_wrong_class_has_all_the_probability(size):
    """1 - max p is 0 to rounding there; exact from the other logits."""
    logits = np.array([[0.0, size, 0.0]], np.float32)
    attacked = Attacked(jnp.asarray(logits), None)
    output = create("mart", beta=0.0).loss(
        forward, {"passes": 0}, jnp.asarray(logits), attacked, np.array([0]), knobs_lib.neutral(3)
    )
    log_others = np.log(2) - np.logaddexp(size, np.log(2))
    np.testing.assert_allclose(output.losses, np.logaddexp(size, np.log(2)) - log_others, rtol=1e-6)


def test_bat_by_hand():
    last = np.random.default_rng(2).normal(size=LOGITS.shape).astype(np.float32)
    uniform, r = np.full_like(P, 1 / CLASSES), softmax(last, 1)
    expected = -np.log(r)[ROWS, LABELS] + 6 * kl(P, Q) + kl(r, uniform) + kl(Q, uniform)
    output = losses_of(create("bat"), adversarial=ADVERSARIAL, path=last)
    np.testing.assert_allclose(output.losses, expected, rtol=1e-5)


PGD = Pgd(threats.NORMS["linf"], steps=1)


def attack_along(pgd, path):
    """An attack that visits given points, logits for themselves, of which the last is its result."""

    def attack(loss):
        value = pgd.path.init(path[0])
        for points in path[:-1]:
            value = pgd.path.update(value, points, points[:, 0, 0, :], jnp.zeros(3, jnp.int32))
        return Attacked(path[-1], None, value)

    return attack


def test_bat_finds_the_points_on_either_side_of_the_boundary():
    """Three images along a path of five points: never wrong; wrong from the third point on; wrong at once."""
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    steps = [[right, right, wrong], [right, right, wrong], [right, wrong, wrong], [right, wrong, wrong]]
    # A second, larger digit tells the points of a path apart.
    path = [jnp.array(point)[:, None, None, :] * (number + 1) for number, point in enumerate([*steps, steps[-1]])]
    bat = create("bat")
    found = bat.perturb(attack_along(bat.vary(PGD), path), lambda images: images[:, 0, 0, :], path[0])
    number = lambda points: np.asarray(points).max(axis=(1, 2, 3))  # noqa: E731
    # Right to the end: the last looked at, and the result. Wrong at the third: the second, and the fourth, a step on.
    np.testing.assert_array_equal(number(found.path)[:2], [4, 2])
    np.testing.assert_array_equal(number(found.images), [5, 4, 2])
    np.testing.assert_array_equal(found.path[2], path[0][2])  # the image itself, where no point is right


@pytest.mark.parametrize(
    "name, settings, maximised",
    [
        ("pgd_at", {}, "cross_entropy"),
        ("mart", {}, "cross_entropy"),
        ("n_fgsm", {}, "cross_entropy"),
        ("free", {}, "cross_entropy"),  # of images that are not trained on
        ("trades", {}, "divergence"),
        ("trades", {"climb": "cross_entropy"}, "cross_entropy"),
    ],
)
def test_what_attacks_maximise_is_plain(name, settings, maximised):
    asked = []
    create(name, label_smoothing=0.3, **settings).perturb(asked.append, lambda images: P, LOGITS)
    (loss,) = asked
    expected = losses.cross_entropy(ADVERSARIAL, LABELS) if maximised == "cross_entropy" else kl(softmax(P, 1), Q)
    np.testing.assert_allclose(loss(ADVERSARIAL, LABELS), expected, rtol=1e-5, atol=1e-6)


def test_where_attacks_start_and_end():
    """N-FGSM up to two radii away and a step further; those on a divergence so near that the radius does not matter."""
    images, radius = jnp.full((50, 4, 4, 1), 0.5), jnp.full(50, 0.05)
    keys = jax.random.split(jax.random.key(0), 50)

    def distance(name):
        pgd = create(name).vary(PGD)
        return float(jnp.abs(pgd.start(pgd.norm, keys, images, radius) - images).max()), pgd.relative_radius

    assert 0.095 < distance("n_fgsm")[0] <= 0.1 + 1e-6 and distance("n_fgsm")[1] == 3.0
    for name in ("trades", "mart", "bat"):
        assert 0.001 < distance(name)[0] < 0.01 and distance(name)[1] == 1.0
    assert create("trades", climb="cross_entropy").vary(PGD) is PGD is create("pgd_at").vary(PGD)


@pytest.mark.parametrize("name", ["standard", "free"])
def test_attack_nothing_before_the_update(name):
    assert not create(name).attacks and create("pgd_at").attacks


@pytest.mark.parametrize("name", ["pgd_at", "trades", "mart"])
def test_a_loss_of_ones_own_takes_the_place_of_the_cross_entropy(name):
    """What is trained and what the attack maximises, of the logits that the knobs have changed."""

    def own(logits, labels):
        return 2 * losses.cross_entropy(logits, labels)

    asked, shifted = [], NEUTRAL.replace(log_prior=jnp.arange(4.0))
    objective = objectives.create(name, own, beta=0.0)
    objective.perturb(asked.append, lambda images: P, LOGITS)
    assert (asked[0] is own) == (name != "trades")
    of_loss = losses_of(objective, shifted, ADVERSARIAL).losses
    plain = losses_of(create(name, beta=0.0), shifted, ADVERSARIAL).losses
    trained_on = LOGITS if name == "trades" else ADVERSARIAL
    expected = plain + losses.cross_entropy(trained_on + np.arange(4), LABELS)
    np.testing.assert_allclose(of_loss, expected, rtol=1e-5)


def test_label_smoothing_by_hand():
    """(1 - s) of the true class's surprise plus s of the mean over all classes."""
    surprise = -log_softmax(LOGITS, 1)
    expected = 0.9 * surprise[ROWS, LABELS] + 0.1 * surprise.mean(1)
    np.testing.assert_allclose(losses_of(create("standard", label_smoothing=0.1)).losses, expected, rtol=1e-5)


@pytest.mark.parametrize("name, knob", [("standard", "weight_natural"), ("pgd_at", "weight_robust")])
def test_weights_multiply_the_loss_of_their_class(name, knob):
    weights = jnp.array([0.5, 1.0, 2.0, 3.0])
    adversarial = LOGITS if name == "pgd_at" else None
    plain = losses_of(create(name), adversarial=adversarial).losses
    output = losses_of(create(name), NEUTRAL.replace(**{knob: weights}), adversarial)
    np.testing.assert_allclose(output.losses, weights[LABELS] * plain, rtol=1e-6)
    np.testing.assert_array_equal(output.unweighted, plain)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focusing_is_the_focal_loss_in_value_and_gradient(gamma):
    """Against -(1 - p)^g log p, differentiated by hand; also where p is 1 to rounding."""
    knobs = NEUTRAL.replace(focusing=jnp.full(CLASSES, gamma))
    logits = np.concatenate([LOGITS, 200 * np.eye(CLASSES, dtype=np.float32)[:1]])
    labels = np.append(LABELS, 0)
    actual = cross_entropy(logits, labels, knobs, 0.0)
    p = softmax(logits.astype(float), 1)[np.arange(7), labels]
    np.testing.assert_allclose(actual, -((1 - p) ** gamma) * np.log(p), rtol=1e-5, atol=1e-30)
    gradient = jax.grad(lambda z: cross_entropy(z, labels, knobs, 0.0).sum())(logits)
    by_p = -((1 - p) ** gamma) / p + (gamma * (1 - p) ** (gamma - 1) * np.log(p) if gamma else 0.0)
    by_z = p[:, None] * (np.eye(CLASSES)[labels] - softmax(logits.astype(float), 1))
    np.testing.assert_allclose(gradient[:6], (by_p[:, None] * by_z)[:6], rtol=1e-4, atol=1e-6)
    assert np.isfinite(gradient).all()


def test_logit_scale_and_prior_are_the_vs_loss():
    scale, prior = jnp.array([1.0, 0.9, 0.7, 0.5]), jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
    actual = cross_entropy(LOGITS, LABELS, NEUTRAL.replace(logit_scale=scale, log_prior=prior), 0.0)
    expected = -log_softmax(LOGITS * np.asarray(scale) + np.asarray(prior), 1)[ROWS, LABELS]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["pgd_at", "trades", "mart"])
def test_confusions_weigh_by_prediction_and_class(name):
    """KLDiv(log p(x'), G[predicted, y] onehot(y)) is, but for a constant, G times the cross-entropy."""
    matrix = np.random.default_rng(3).uniform(size=(CLASSES, CLASSES)).astype(np.float32)
    plain = losses_of(create(name), adversarial=ADVERSARIAL).losses
    actual = losses_of(create(name), NEUTRAL.replace(confusion_weight=matrix), ADVERSARIAL).losses
    weight = matrix[ADVERSARIAL.argmax(1), LABELS]
    confused = -np.log(Q)[ROWS, LABELS]
    if name == "mart":
        confused -= np.log(1 - np.where(np.eye(CLASSES)[LABELS] > 0, 0, Q).max(1))
    np.testing.assert_allclose(actual - plain, weight * confused, rtol=1e-4)


def test_log_prior_is_the_balanced_softmax():
    """Balanced softmax (Ren et al. 2020): gradient softmax(z + log n) - onehot, unchanged by scaling n."""
    counts = jnp.array([10.0, 100.0, 5.0, 50.0])

    def gradient(scale):
        knobs = NEUTRAL.replace(log_prior=jnp.log(scale * counts))
        return jax.grad(lambda z: cross_entropy(z, LABELS, knobs, 0.0).sum())(LOGITS)

    expected = softmax(LOGITS + np.log(counts), axis=1) - np.eye(CLASSES)[LABELS]
    np.testing.assert_allclose(gradient(1.0), expected, atol=1e-6)
    np.testing.assert_allclose(gradient(7.0), expected, atol=1e-6)


def test_margin_lowers_the_true_logit():
    margin = jnp.array([0.1, 0.2, 0.3, 0.4])
    shifted = LOGITS - np.asarray(margin)[LABELS][:, None] * np.eye(CLASSES)[LABELS]
    expected = -log_softmax(shifted, 1)[np.arange(6), LABELS]
    actual = cross_entropy(LOGITS, LABELS, NEUTRAL.replace(margin=margin), 0.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
