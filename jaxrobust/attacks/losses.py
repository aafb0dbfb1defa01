"""What an attack climbs: functions of (logits [B, C], labels [B]) -> [B], larger is worse for the model."""

import jax.numpy as jnp
import optax


def cross_entropy(logits, labels):
    """-log softmax(logits)[label]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def margin(logits, labels):
    """Largest wrong logit minus the true one (Carlini & Wagner 2017): positive exactly where misclassified."""
    true = labels[:, None] == jnp.arange(logits.shape[-1])[None]
    return jnp.where(true, -jnp.inf, logits).max(-1) - jnp.where(true, logits, -jnp.inf).max(-1)


LOSSES = {"cross_entropy": cross_entropy, "margin": margin}
