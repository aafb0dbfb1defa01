"""Remedies based on confusions between classes: matrices [C, C], indexed by true class, then predicted class."""

import jax.numpy as jnp

from jaxrobust.remedies.long_tail import log_prior
from jaxrobust.remedies.rule import Rule, Run, accuracy, by_last_epoch, epoch_scale, first_epoch, mean_one

_SPECTRAL_RANGE = (0.01, 2.01)
_DAFA_SMALLEST = 0.1
_REAT_DECAY = 0.5  # of the average over epochs of the numbers of predictions
_REAT_SMALLEST = 0.1  # predictions of a class, as a share of its training images


def dafa(run: Run, *, strength: float, begin: float) -> Rule:
    """Weights and radii by distances between classes (DAFA, Lee et al. 2024), see `dafa_weights`.

    They are computed once, from the probabilities in the last epoch before the fraction `begin` of the training. The
    weight acts only on the cross-entropy: on that of natural images, if the objective has one.
    """
    weight, first = run.weights[0], max(first_epoch(begin, run.num_epochs), run.first_epoch)

    def update(state, statistics, epoch):
        probability = statistics["probability"] / jnp.maximum(statistics["count"], 1)[:, None]
        return jnp.where(epoch == first, dafa_weights(probability, strength), state)

    return Rule(
        (weight, "radius_scale"),
        knob_values=lambda state, counts, progress: {weight: state, "radius_scale": state},
        init=lambda counts: jnp.ones(len(counts)),
        update=update,
        statistics=("probability",),
    )


def dafa_weights(probability, strength: float):
    """W [C], 1 on average: weight moves to each class from the easier classes that it is confused with.

    For classes i and j with p_i(i) < p_j(j), the amount strength * p_i(j) p_j(j) moves from W_j to W_i. Nothing moves
    if both are equal. No weight falls below 0.1, because a class of weight 0 would not be trained at all.

    Args:
        probability: [C, C], p_i(j), mean probability of class j on adversarial images of class i.
    """
    own = jnp.diagonal(probability)
    given = jnp.where(own[:, None] < own[None], strength * probability * own[None], 0.0)  # [i, j]: from j to i
    weights = 1.0 + given.sum(1) - given.sum(0)
    return mean_one(jnp.maximum(weights, _DAFA_SMALLEST))


def spectral(run: Run, *, weight: float) -> Rule:
    """Confusions weighted by the singular vectors of the confusion matrix (Jin et al. 2025), see `spectral_weights`.

    The loss is (1 - weight) times the cross-entropy, plus for each adversarial image `weight` times its cross-entropy
    times the entry of `spectral_weights` for its predicted and true class. The confusions are counted after the true
    logit is lowered by a tenth.
    """
    main = run.weights[0]

    def neutral(num_classes):
        return {main: jnp.ones(num_classes), "confusion_weight": jnp.zeros((num_classes, num_classes))}

    def values(statistics):
        confusion = statistics["shrunk_confusion"].astype(jnp.float32)
        kept = jnp.full(len(confusion), 1.0 - weight)
        return {main: kept, "confusion_weight": weight * spectral_weights(confusion)}

    return by_last_epoch(neutral, values, ("shrunk_confusion",))


def spectral_weights(confusion):
    """G [C, C], indexed by predicted, then true class: u v^T of the largest singular value, rescaled to [0.01, 2.01].

    u and v are singular vectors of the matrix of errors. Absolute values are taken, as a decomposition may return both
    negated (they can be chosen non-negative: Perron-Frobenius).

    Args:
        confusion: [C, C], indexed by true, then predicted class; the diagonal is ignored.
    """
    errors = (confusion * (1.0 - jnp.eye(len(confusion)))).T
    left, size, right = jnp.linalg.svd(errors)
    outer = jnp.where(size[0] > 0, jnp.abs(left[:, :1] * right[:1]), 0.0)
    low, high = _SPECTRAL_RANGE
    spread = outer.max() - outer.min()
    unit = jnp.where(spread > 0, (outer - outer.min()) / jnp.where(spread > 0, spread, 1.0), 0.0)
    return low + (high - low) * unit


def fair_tat(run: Run, *, radius_base: float) -> Rule:
    """Targeted attacks towards the classes that are most often predicted wrongly (FAIR-TAT, Medi et al. 2025).

    The probability of a target is softmax(share of all errors that are predictions of this class), over the wrong
    classes. The radius is that of CFA, (radius_base + t_c) times the threat's radius, with t_c the accuracy of class c
    on adversarial images.
    """

    def neutral(num_classes):
        return {"target_logit": jnp.zeros(num_classes), "radius_scale": jnp.ones(num_classes)}

    def values(statistics):
        share = false_positive_share(statistics["confusion"])
        return {"target_logit": share, "radius_scale": radius_base + accuracy(statistics)}

    return by_last_epoch(neutral, values, ("confusion",))


def false_positive_share(confusion):
    """Share [C] of all errors that are predictions of each class; 0 if there are no errors."""
    errors = (confusion * (1 - jnp.eye(len(confusion), dtype=confusion.dtype))).sum(0)
    return errors / jnp.maximum(errors.sum(), 1)


def reat(run: Run) -> Rule:
    """Weights from the number of adversarial predictions of each class, and balanced softmax (REAT, Li et al. 2023).

    REAT puts the weights on the loss that the attack maximises, where a factor changes no step. Here they are on the
    training loss, with the numbers of predictions averaged over epochs and bounded below, or weights and predictions
    would oscillate; they are scaled to the size of the training set. REAT's feature loss is left out.
    """

    def init(counts):
        counts = jnp.asarray(counts, jnp.float32)
        return {"predicted": counts, "images": counts}

    def update(state, statistics, epoch):
        predicted = statistics["confusion"].sum(0) * epoch_scale(state["images"], statistics)
        return state | {"predicted": _REAT_DECAY * state["predicted"] + (1 - _REAT_DECAY) * predicted}

    def knob_values(state, counts, progress):
        return run.weigh(reat_weights(state["images"], state["predicted"])) | {"log_prior": log_prior(counts, 1.0)}

    return Rule((*run.weights, "log_prior"), knob_values, init, update, statistics=("confusion",), by_counts=True)


def reat_weights(images, predicted):
    """Weights [C], 1 on average, proportional to 1 / E_c, E_c = (1 - b_c^a_c) / (1 - b_c), b_c = (n_c - 1) / n_c.

    Args:
        images: [C], n_c, training images of the class.
        predicted: [C], a_c, adversarial images predicted as the class; values below n_c / 10 are raised to n_c / 10.
    """
    log_beta = jnp.log1p(-1.0 / jnp.maximum(images, 1.0 + 1e-6))
    effective = -jnp.expm1(jnp.maximum(predicted, _REAT_SMALLEST * images) * log_beta) * images
    return mean_one(1.0 / effective)


RULES = {rule.__name__: rule for rule in (dafa, spectral, fair_tat, reat)}
