"""What an attack climbs: functions of (logits [B, C], labels [B]) -> [B], larger is worse for the model."""

import jax
import jax.numpy as jnp


def cross_entropy(logits, labels):
    """-log softmax(logits)[label]."""
    return jax.nn.logsumexp(logits, axis=-1) - jnp.where(_true(logits, labels), logits, 0).sum(-1)


def margin(logits, labels):
    """Largest wrong logit minus the true one (Carlini & Wagner 2017): positive exactly where misclassified."""
    true = _true(logits, labels)
    return jnp.where(true, -jnp.inf, logits).max(-1) - jnp.where(true, logits, -jnp.inf).max(-1)


def _true(logits, labels):
    """Whether a logit [B, C] is that of the label. A comparison, since a gather has a scatter for its gradient."""
    return labels[:, None] == jnp.arange(logits.shape[-1])[None]


LOSSES = {"cross_entropy": cross_entropy, "margin": margin}
