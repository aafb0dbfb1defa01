"""Objectives of adversarial training, as per-example losses.

An objective has two parts. `perturb` computes the additional inputs of the loss, such as adversarial images; it is not
differentiated with respect to the parameters. `loss` is differentiated.

    perturb(attack, logits_fn, images, labels) -> Attacked, or None without an attack
        attack(loss, images, labels, *, start, reach, watch) -> Attacked; it maximises loss(logits, labels) -> [B]. The
        other arguments are optional: start(images, radius [B], keys [B], norm) -> starting points, `reach` a factor on
        the radius of the ball, `watch` as in pgd.Pgd
    loss(forward, batch_stats, images, attacked, labels, knobs) -> LossOutput
        forward(batch_stats, images) -> (logits, new batch_stats)

Class knobs act on the training loss here, and on the radius of `attack` (step.py). Neutral knobs have no effect.
Knobs of the cross-entropy change the training loss only; attacks maximise plain losses.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.attacks import losses, threats
from jaxrobust.remedies import in_batch
from jaxrobust.remedies.knobs import ClassKnobs

_SMALL_NOISE = 0.001  # of the start of attacks on a divergence, whose gradient is 0 at the image itself (TRADES)


# Class knobs of the cross-entropy, and of the attack.
_CROSS_ENTROPY = ("margin", "log_prior", "logit_scale", "focusing", "sampling")
_ATTACK = ("radius_scale", "target_logit")
_ADVERSARIAL = (*_CROSS_ENTROPY, *_ATTACK, "weight_robust", "confusion_weight")


class Attacked(NamedTuple):
    """The result of an attack.

    Attributes:
        images: [B, H, W, C], adversarial images.
        withstood: [B], number of iterates classified correctly, including the starting point, without the last iterate.
        watched: result of the objective's `watch`.
    """

    images: jax.Array
    withstood: jax.Array
    watched: Any = ()


class LossOutput(NamedTuple):
    """The loss of a batch.

    Attributes:
        losses: [B], with class weights; these are minimised.
        unweighted: [B], without class weights.
        logits: [B, C] of the images trained on: the adversarial images, if the objective attacks.
        natural_logits: [B, C] of the unperturbed images; None if the objective does not use them.
        batch_stats: batch statistics after the step.
    """

    losses: jax.Array
    unweighted: jax.Array
    logits: jax.Array
    natural_logits: jax.Array | None
    batch_stats: dict


class Objective(NamedTuple):
    """See the module's docstring.

    Attributes:
        knobs: names of the class knobs that it uses, including those of its attack.
        passes: arithmetic of the loss and its gradient, in forward passes, without the attack.
        attack_passes: additional forward passes of the attack, besides its steps.
        beta: trade-off between its two losses; 0 if there is none.
        sees_natural: whether it uses the unperturbed images.
        attacks: whether it attacks before each update.
        observe: `perturb` for images that are not trained on; None if it is the same function.
        in_batch: function that computes class weights from the current batch, see remedies/in_batch.py; or None.
        replays: 0, or the number of updates on each batch; their gradients also update the perturbation of the images.
    """

    perturb: Callable
    loss: Callable
    knobs: tuple[str, ...]
    passes: int
    attack_passes: int = 0
    beta: float = 0.0
    sees_natural: bool = False
    attacks: bool = True
    observe: Callable | None = None
    in_batch: Callable | None = None
    replays: int = 0


def cross_entropy(logits, labels, knobs: ClassKnobs, label_smoothing: float):
    """Cross-entropy [B] with smoothed labels, of the logits changed by `logit_scale`, `log_prior` and `margin`.

    It is multiplied by (1 - p_true)^g, the factor of the focal loss (Lin et al. 2017) in its softmax form, where g is
    the knob `focusing`.
    """
    true = jax.nn.one_hot(labels, logits.shape[-1])
    scaled = logits if knobs.logit_scale is None else knobs.logit_scale[None] * logits
    adjusted = scaled + knobs.log_prior[None] - knobs.margin[None] * true
    plain = optax.softmax_cross_entropy(adjusted, optax.smooth_labels(true, label_smoothing))
    if knobs.focusing is None:
        return plain
    # log(1 - p) is computed from the other logits, since 1 - p rounds to 0 if p is near 1.
    others = jax.nn.logsumexp(jnp.where(true > 0, -jnp.inf, adjusted), axis=-1)
    log_wrong = others - jax.nn.logsumexp(adjusted, axis=-1)
    return jnp.exp(knobs.focusing[labels] * log_wrong) * plain


def standard(label_smoothing: float) -> Objective:
    """Training on unperturbed images."""

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        logits, batch_stats = forward(batch_stats, images)
        plain = cross_entropy(logits, labels, knobs, label_smoothing)
        return LossOutput(knobs.weight_natural[labels] * plain, plain, logits, logits, batch_stats)

    knobs = (*_CROSS_ENTROPY, "weight_natural")
    return Objective(_perturb_nothing, loss, knobs, passes=3, sees_natural=True, attacks=False)


def pgd_at(label_smoothing: float) -> Objective:
    """Training on adversarial images only (Madry et al. 2018)."""

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        logits, batch_stats = forward(batch_stats, attacked.images)
        plain = cross_entropy(logits, labels, knobs, label_smoothing)
        weighted = knobs.weight_robust[labels] * plain + _confused(plain, logits, labels, knobs)
        return LossOutput(weighted, plain, logits, None, batch_stats)

    return Objective(_climb_cross_entropy, loss, _ADVERSARIAL, passes=3)


def trades(label_smoothing: float, beta: float, climb: str) -> Objective:
    """CE(x) + beta KL(p(x) || p(x')), where x' maximises the divergence (Zhang et al. 2019).

    With `climb` "cross_entropy", x' maximises the cross-entropy, as in RoBal. An attack on the divergence continues in
    the direction of its initial noise, towards the decision boundary or away from it, as in the published method.
    """

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        natural_logits, batch_stats = forward(batch_stats, images)
        logits, batch_stats = forward(batch_stats, attacked.images)
        natural = cross_entropy(natural_logits, labels, knobs, label_smoothing)
        divergence = beta * losses.kl_from(natural_logits)(logits, labels)
        weighted = knobs.weight_natural[labels] * natural
        weighted += knobs.weight_robust[labels] * knobs.beta_scale[labels] * divergence
        weighted += _confused(cross_entropy(logits, labels, knobs, label_smoothing), logits, labels, knobs)
        return LossOutput(weighted, natural + divergence, logits, natural_logits, batch_stats)

    knobs = (*_ADVERSARIAL, "weight_natural", "beta_scale")
    climb, attack_passes = (_climb_cross_entropy, 0) if climb == "cross_entropy" else (_climb_divergence, 1)
    return Objective(climb, loss, knobs, passes=6, attack_passes=attack_passes, beta=beta, sees_natural=True)


def mart(label_smoothing: float, beta: float) -> Objective:
    """Misclassification-aware adversarial training (Wang et al. 2020).

    -log p_y(x') - log(1 - max_{j != y} p_j(x')) + beta KL(p(x) || p(x')) (1 - p_y(x)), where x' maximises the
    cross-entropy. The knob `weight_natural` is not used.
    """

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        natural_logits, batch_stats = forward(batch_stats, images)
        logits, batch_stats = forward(batch_stats, attacked.images)
        true = losses.is_class(logits, labels)
        rival = losses.is_class(logits, jnp.where(true, -jnp.inf, logits).argmax(-1))
        # Computed from the other logits, since 1 - p rounds to 0 if p is near 1.
        log_others = jax.nn.logsumexp(jnp.where(rival, -jnp.inf, logits), axis=-1) - jax.nn.logsumexp(logits, axis=-1)
        boosted = cross_entropy(logits, labels, knobs, label_smoothing) - log_others
        doubt = 1 - jnp.where(true, jax.nn.softmax(natural_logits), 0.0).sum(-1)
        divergence = beta * losses.kl_from(natural_logits)(logits, labels) * doubt
        weighted = knobs.weight_robust[labels] * (boosted + knobs.beta_scale[labels] * divergence)
        weighted += _confused(boosted, logits, labels, knobs)
        return LossOutput(weighted, boosted + divergence, logits, natural_logits, batch_stats)

    def perturb(attack, logits_fn, images, labels):
        return attack(losses.cross_entropy, images, labels, start=_near)

    return Objective(perturb, loss, (*_ADVERSARIAL, "beta_scale"), passes=6, beta=beta, sees_natural=True)


def n_fgsm(label_smoothing: float, noise: float) -> Objective:
    """One step from a point up to `noise` radii away, not projected to the ball (N-FGSM, de Jorge et al. 2022)."""

    def far(images, radius, keys, norm):
        return threats.random_start(norm, keys, images, noise * radius)

    def perturb(attack, logits_fn, images, labels):
        return attack(losses.cross_entropy, images, labels, start=far, reach=1.0 + noise)

    return pgd_at(label_smoothing)._replace(perturb=perturb)


def free(label_smoothing: float, replays: int) -> Objective:
    """`replays` updates on each batch; the gradient of each also gives a step of the attack (Shafahi et al. 2019).

    The perturbation is reset for every batch. The attack maximises the training loss, including its knobs.
    """
    plain = pgd_at(label_smoothing)
    return plain._replace(
        perturb=_perturb_nothing,
        knobs=tuple(knob for knob in plain.knobs if knob != "target_logit"),
        passes=3 * replays,
        attacks=False,
        observe=_climb_cross_entropy,
        replays=replays,
    )


def bat(label_smoothing: float, beta: float) -> Objective:
    """Training on two points of the attack's path, one on each side of the decision boundary (BAT, Sun et al. 2023).

    CE(x_last) + beta KL(p(x) || p(x_first)) + KL(p(x_last) || u) + KL(p(x_first) || u), u uniform: x_last is the last
    iterate that is classified correctly, x_first is the iterate one step after the first misclassified iterate.
    """

    def watch(watched, points, logits, labels):
        last, first, stopped, wrong = watched
        # One step after the first mistake: `wrong` refers to the points before the current ones.
        first = jnp.where(threats.per_example(stopped, points), first, points)
        stopped |= wrong
        correct = logits.argmax(-1) == labels
        last = jnp.where(threats.per_example(correct, points), points, last)
        return last, first, stopped, wrong | ~correct

    def perturb(attack, logits_fn, images, labels):
        nowhere = jnp.zeros(len(labels), bool)
        watching = (images, images, nowhere, nowhere), lambda *seen: watch(*seen, labels)
        found = attack(losses.kl_from(logits_fn(images)), images, labels, start=_near, watch=watching)
        last, first, stopped, _ = found.watched
        first = jnp.where(threats.per_example(stopped, images), first, found.images)
        return found._replace(images=first, watched=last)

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        natural_logits, batch_stats = forward(batch_stats, images)
        last_logits, batch_stats = forward(batch_stats, attacked.watched)
        logits, batch_stats = forward(batch_stats, attacked.images)
        inner = cross_entropy(last_logits, labels, knobs, label_smoothing) + _certainty(last_logits)
        outer = beta * losses.kl_from(natural_logits)(logits, labels)
        weighted = knobs.weight_natural[labels] * inner
        weighted += knobs.weight_robust[labels] * (knobs.beta_scale[labels] * outer + _certainty(logits))
        weighted += _confused(cross_entropy(logits, labels, knobs, label_smoothing), logits, labels, knobs)
        return LossOutput(weighted, inner + outer + _certainty(logits), logits, natural_logits, batch_stats)

    knobs = (*_ADVERSARIAL, "weight_natural", "beta_scale")
    return Objective(perturb, loss, knobs, passes=9, attack_passes=1, beta=beta, sees_natural=True)


def variance_penalty(label_smoothing: float, strength: float) -> Objective:
    """`pgd_at` plus `strength` times the variance of the classes' mean losses in the batch (Ma et al. 2022)."""
    return pgd_at(label_smoothing)._replace(in_batch=in_batch.variance_penalty(strength))


def _perturb_nothing(attack, logits_fn, images, labels):
    return None


def _climb_cross_entropy(attack, logits_fn, images, labels):
    return attack(losses.cross_entropy, images, labels)


def _climb_divergence(attack, logits_fn, images, labels):
    return attack(losses.kl_from(logits_fn(images)), images, labels, start=_near)


def _near(images, radius, keys, norm):
    """A starting point so close to the image that it does not depend on the radius; the image itself for radius 0."""
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return images + jnp.where(threats.per_example(radius, images) > 0, _SMALL_NOISE * noise, 0.0)


def _certainty(logits):
    """KL(softmax(logits) || uniform) [B]: log C minus the entropy."""
    return losses.kl_from(logits)(jnp.zeros_like(logits), None)


def _confused(values, logits, labels, knobs):
    """The losses [B] times the knob `confusion_weight`'s entry for prediction and label; the entry is a constant."""
    if knobs.confusion_weight is None:
        return 0.0
    return knobs.confusion_weight[logits.argmax(-1), labels] * values


class Settings(NamedTuple):
    """The settings of all objectives; the fields are those of `config.objective` and are documented there."""

    label_smoothing: float = 0.0
    beta: float = 6.0
    noise: float = 2.0
    replays: int = 8
    variance: float = 0.1
    climb: str = "divergence"


CLIMBS = ("divergence", "cross_entropy")
_OBJECTIVES = {
    "standard": lambda of: standard(of.label_smoothing),
    "pgd_at": lambda of: pgd_at(of.label_smoothing),
    "trades": lambda of: trades(of.label_smoothing, of.beta, of.climb),
    "mart": lambda of: mart(of.label_smoothing, of.beta),
    # pgd_at with one step from a random start (Wong et al. 2020); the step size is a setting of the attack.
    "fgsm_rs": lambda of: pgd_at(of.label_smoothing),
    "n_fgsm": lambda of: n_fgsm(of.label_smoothing, of.noise),
    "free": lambda of: free(of.label_smoothing, of.replays),
    "bat": lambda of: bat(of.label_smoothing, of.beta),
    "variance_penalty": lambda of: variance_penalty(of.label_smoothing, of.variance),
}
NAMES = tuple(_OBJECTIVES)
# Objectives whose attack is a single step, and the published step size, in radii.
SINGLE_STEPS = {"fgsm_rs": 1.25, "n_fgsm": 1.0, "free": 1.0}


def create(name: str, settings: Settings) -> Objective:
    """The objective with this name, one of `NAMES`."""
    return _OBJECTIVES[name](settings)
