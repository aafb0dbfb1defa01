"""The functions that an attack maximises: a larger value is worse for the model.

`LOSSES` are functions of (logits [B, C], labels [B]) -> [B], `TARGETED_LOSSES` of (logits, labels, targets [B]) -> [B],
where the target is the wrong class that the attack aims at.
"""

import jax
import jax.numpy as jnp

_GUARD = 1e-12  # of the denominator of the DLR loss, as published


def cross_entropy(logits, labels):
    """-log softmax(logits)[label]."""
    return jax.nn.logsumexp(logits, axis=-1) - _pick(logits, labels)


def margin(logits, labels):
    """Largest wrong logit minus the true one (Carlini & Wagner 2017): positive exactly where misclassified."""
    true = is_class(logits, labels)
    return jnp.where(true, -jnp.inf, logits).max(-1) - jnp.where(true, logits, -jnp.inf).max(-1)


def softmax_margin(logits, labels):
    """Largest wrong probability minus the true one, in [-1, 1]."""
    return margin(jax.nn.softmax(logits, axis=-1), labels)


def kl_from(reference):
    """The loss KL(softmax(reference) || softmax(logits)) [B], which ignores labels; `reference` is logits [B, C]."""

    def kl(logits, labels):
        del labels
        log_p, log_q = jax.nn.log_softmax(reference, axis=-1), jax.nn.log_softmax(logits, axis=-1)
        return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)

    return kl


def dlr(logits, labels):
    """Difference of logits ratio (Croce & Hein 2020): -(z_y - max_{j != y} z_j) / (z_pi1 - z_pi3).

    pi sorts the logits, largest first. The loss is the same for a * z + b with any a > 0. With two classes there is no
    z_pi3, and the ratio could only be -1 or 1, so `margin` is used instead.
    """
    if logits.shape[-1] < 3:
        return margin(logits, labels)
    first, _, third = _largest(logits, 3)
    return margin(logits, labels) / (first - third + _GUARD)


def targeted_cross_entropy(logits, labels, targets):
    """log softmax(logits)[target]."""
    del labels
    return -cross_entropy(logits, targets)


def targeted_margin(logits, labels, targets):
    """The logit of the target minus the true one."""
    return _pick(logits, targets) - _pick(logits, labels)


def targeted_dlr(logits, labels, targets):
    """Targeted DLR loss (Croce & Hein 2020): -(z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2).

    With three classes the denominator is that of `dlr`, z_pi1 - z_pi3; with two the loss is `targeted_margin`.
    """
    classes = logits.shape[-1]
    if classes < 3:
        return targeted_margin(logits, labels, targets)
    largest = _largest(logits, min(classes, 4))
    low = (largest[2] + largest[-1]) / 2  # with three classes both are the third
    return targeted_margin(logits, labels, targets) / (largest[0] - low + _GUARD)


def name_in_use(name, classes, targeted=False):
    """The loss that `LOSSES[name]` or `TARGETED_LOSSES[name]` computes with that many classes, as named in results."""
    if name == "dlr" and classes < 3:
        name = "margin"
    if name == "dlr" and classes == 3 and targeted:
        return "targeted dlr, denominator z1 - z3"
    return f"targeted {name}" if targeted else name


def is_class(logits, classes):
    """Whether a logit [B, C] is that of the class [B]. By comparison: the gradient of a gather is a slow scatter."""
    return classes[:, None] == jnp.arange(logits.shape[-1])[None]


def _pick(logits, classes):
    return jnp.where(is_class(logits, classes), logits, 0).sum(-1)


def _largest(logits, count):
    """The `count` largest logits, a list of [B]. They are picked by their order, so that no gradient is a scatter."""
    order = jax.lax.top_k(jax.lax.stop_gradient(logits), count)[1]
    return [_pick(logits, order[:, rank]) for rank in range(count)]


LOSSES = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
TARGETED_LOSSES = {"cross_entropy": targeted_cross_entropy, "margin": targeted_margin, "dlr": targeted_dlr}
