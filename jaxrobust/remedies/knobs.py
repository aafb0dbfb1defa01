"""The class knobs: every per-class dial that a remedy may turn."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class ClassKnobs:
    """One float32 array [C] per dial. With every dial at its neutral value, training is plain adversarial training.

    Attributes:
        weight_natural: factor on the loss of unperturbed images; neutral 1.
        weight_robust: factor on the loss of adversarial images; neutral 1.
        radius_scale: factor on the radius and the step of the attack in training; neutral 1.
        beta_scale: factor on the trade-off between the two losses; neutral 1.
        margin: subtracted from the true logit in the training loss; neutral 0.
        log_prior: added to the logits in the training loss; neutral 0.
        sampling: how often an image of the class is drawn, relative to the others; neutral 1, each once an epoch.
    """

    weight_natural: jax.Array
    weight_robust: jax.Array
    radius_scale: jax.Array
    beta_scale: jax.Array
    margin: jax.Array
    log_prior: jax.Array
    sampling: jax.Array


def neutral(num_classes: int) -> ClassKnobs:
    """Knobs that change nothing."""
    ones, zeros = (lambda: jnp.ones(num_classes)), (lambda: jnp.zeros(num_classes))
    return ClassKnobs(
        weight_natural=ones(),
        weight_robust=ones(),
        radius_scale=ones(),
        beta_scale=ones(),
        margin=zeros(),
        log_prior=zeros(),
        sampling=ones(),
    )
