"""Remedies that look at which class is taken for which: matrices [C, C], the true class first."""

import jax.numpy as jnp

from jaxrobust.remedies.long_tail import log_prior
from jaxrobust.remedies.rule import Rule, Run, accuracy, by_last_epoch, epoch_scale, first_epoch, mean_one

_SPECTRAL_RANGE = (0.01, 2.01)
_DAFA_SMALLEST = 0.1
_REAT_DECAY = 0.5  # of the average over epochs of what images are taken for
_REAT_SMALLEST = 0.1  # predictions of a class, as a share of its training images


def dafa(run: Run, *, strength: float, begin: float) -> Rule:
    """Weights and radii by distances between classes (DAFA, Lee et al. 2024), see `dafa_weights`.

    They are computed once, from the probabilities of the epoch before the fraction `begin` of the training. The weight
    acts on the cross-entropy alone: on that of natural images, where there is one.
    """
    weight, first = run.weights[0], max(first_epoch(begin, run.num_epochs), run.first_epoch)

    def observe(memory, statistics, epoch):
        probability = statistics["probability"] / jnp.maximum(statistics["count"], 1)[:, None]
        return jnp.where(epoch == first, dafa_weights(probability, strength), memory)

    return Rule(
        (weight, "radius_scale"),
        turn=lambda memory, counts, progress: {weight: memory, "radius_scale": memory},
        start=lambda counts: jnp.ones(len(counts)),
        observe=observe,
        statistics=("probability",),
    )


def dafa_weights(probability, strength: float):
    """W [C], 1 on average: a class takes from the easier of those that it is confused with.

    For classes i and j with p_i(i) < p_j(j), strength * p_i(j) p_j(j) goes from W_j to W_i. Nothing goes between
    equals, and no weight falls below a tenth, as a class of weight 0 would not be trained at all.

    Args:
        probability: [C, C], p_i(j), mean probability of class j on adversarial images of class i.
    """
    own = jnp.diagonal(probability)
    given = jnp.where(own[:, None] < own[None], strength * probability * own[None], 0.0)  # [i, j]: from j to i
    weights = 1.0 + given.sum(1) - given.sum(0)
    return mean_one(jnp.maximum(weights, _DAFA_SMALLEST))


def spectral(run: Run, *, weight: float) -> Rule:
    """Confusions weighted by the singular vectors of their matrix (Jin et al. 2025), see `spectral_weights`.

    (1 - weight) of the cross-entropy stays, and `weight` times that of each adversarial image times the entry of its
    prediction and class comes in. The confusions are those of logits whose true one is lowered by a tenth.
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
    """G [C, C] by predicted and true class: u v^T of the largest singular value, rescaled to [0.01, 2.01].

    u and v belong to the matrix of errors, predicted class first, and are taken as non-negative, which the largest
    singular vectors of a non-negative matrix can be (Perron-Frobenius): a decomposition may give both signs.

    Args:
        confusion: [C, C] of true and predicted class; the diagonal does not matter.
    """
    errors = (confusion * (1.0 - jnp.eye(len(confusion)))).T
    left, size, right = jnp.linalg.svd(errors)
    outer = jnp.where(size[0] > 0, jnp.abs(left[:, :1] * right[:1]), 0.0)
    low, high = _SPECTRAL_RANGE
    spread = outer.max() - outer.min()
    unit = jnp.where(spread > 0, (outer - outer.min()) / jnp.where(spread > 0, spread, 1.0), 0.0)
    return low + (high - low) * unit


def fair_tat(run: Run, *, radius_base: float) -> Rule:
    """Targeted attacks that go for the classes that errors land in (FAIR-TAT, Medi et al. 2025).

    The target's probability is softmax(share of all errors that land in the class), over the wrong classes; the radius
    is that of CFA, (radius_base + t_c) times the threat's.
    """

    def neutral(num_classes):
        return {"target_logit": jnp.zeros(num_classes), "radius_scale": jnp.ones(num_classes)}

    def values(statistics):
        share = false_positive_share(statistics["confusion"])
        return {"target_logit": share, "radius_scale": radius_base + accuracy(statistics)}

    return by_last_epoch(neutral, values, ("confusion",))


def false_positive_share(confusion):
    """Share [C] of all errors that land in each class; 0 where there are none."""
    errors = (confusion * (1 - jnp.eye(len(confusion), dtype=confusion.dtype))).sum(0)
    return errors / jnp.maximum(errors.sum(), 1)


def reat(run: Run) -> Rule:
    """Weights by how many adversarial images are taken for each class, and balanced softmax (REAT, Li et al. 2023).

    Published with the weights on the loss that the attack climbs. There a factor on an image's loss changes no step,
    which goes by the sign or the direction of its gradient; so they are on the training loss here, where predictions
    have to be averaged over epochs and bounded below, or weights and predictions drive each other round in circles.
    Its feature loss is left out. Predictions are scaled to as many images as the training set has, since a validation
    split has fewer.
    """

    def start(counts):
        counts = jnp.asarray(counts, jnp.float32)
        return {"predicted": counts, "images": counts}

    def observe(memory, statistics, epoch):
        predicted = statistics["confusion"].sum(0) * epoch_scale(memory["images"], statistics)
        return memory | {"predicted": _REAT_DECAY * memory["predicted"] + (1 - _REAT_DECAY) * predicted}

    def turn(memory, counts, progress):
        return run.weigh(reat_weights(memory["images"], memory["predicted"])) | {"log_prior": log_prior(counts, 1.0)}

    return Rule((*run.weights, "log_prior"), turn, start, observe, statistics=("confusion",), by_counts=True)


def reat_weights(images, predicted):
    """Weights [C], 1 on average, proportional to 1 / E_c, E_c = (1 - b_c^a_c) / (1 - b_c), b_c = (n_c - 1) / n_c.

    Args:
        images: [C], n_c, training images of the class.
        predicted: [C], a_c, adversarial images taken for it; fewer than a tenth of n_c count as that.
    """
    log_beta = jnp.log1p(-1.0 / jnp.maximum(images, 1.0 + 1e-6))
    effective = -jnp.expm1(jnp.maximum(predicted, _REAT_SMALLEST * images) * log_beta) * images
    return mean_one(1.0 / effective)
