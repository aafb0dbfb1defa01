"""The class knobs: all per-class quantities that a remedy may set."""

import flax.struct
import jax
import jax.numpy as jnp

_ONE, _ZERO = (lambda num_classes: jnp.ones(num_classes)), (lambda num_classes: jnp.zeros(num_classes))
_NEUTRAL = {
    "weight_natural": _ONE,
    "weight_robust": _ONE,
    "beta_scale": _ONE,
    "radius_scale": _ONE,
    "margin": _ZERO,
    "log_prior": _ZERO,
    "sampling": _ONE,
    "logit_scale": _ONE,
    "focusing": _ZERO,
    "confusion_weight": lambda num_classes: jnp.zeros((num_classes, num_classes)),
    "target_logit": lambda num_classes: jnp.full(num_classes, -jnp.inf),
}
OPTIONAL = ("logit_scale", "focusing", "confusion_weight", "target_logit")


@flax.struct.dataclass
class ClassKnobs:
    """One float32 array per knob, [C] unless stated otherwise.

    With every knob at its neutral value, training is plain adversarial training. The last four are None if no remedy
    sets them, and then cost nothing.
    """

    weight_natural: jax.Array  # factor on the loss of unperturbed images; neutral 1
    weight_robust: jax.Array  # factor on the loss of adversarial images; neutral 1
    beta_scale: jax.Array  # factor on the trade-off between the two losses; neutral 1
    radius_scale: jax.Array  # factor on the radius and the step of the attack in training; neutral 1
    margin: jax.Array  # subtracted from the true logit in the training loss; neutral 0
    log_prior: jax.Array  # added to the logits in the training loss; neutral 0
    # how often an image of the class is drawn, relative to the others; neutral 1: each image once an epoch.
    sampling: jax.Array
    logit_scale: jax.Array | None = None  # factor on the logits in the training loss; neutral 1
    focusing: jax.Array | None = None  # exponent g of the factor (1 - p_true)^g on the training loss; neutral 0
    # [C, C], indexed by predicted, then true class: added to the weight of the cross-entropy of an adversarial image;
    # neutral 0.
    confusion_weight: jax.Array | None = None
    # attacks in training are targeted at a wrong class, drawn with the softmax of these logits; neutral -inf for all,
    # which means untargeted attacks.
    target_logit: jax.Array | None = None


def neutral(num_classes: int, turned=()) -> ClassKnobs:
    """Knobs at their neutral values; optional knobs are None unless they are named in `turned`."""
    return ClassKnobs(
        **{name: value(num_classes) for name, value in _NEUTRAL.items() if name in turned or name not in OPTIONAL}
    )


def turned(knobs: ClassKnobs) -> dict:
    """The knobs [C] that are not at their neutral values, by name; without `confusion_weight`, which is a matrix."""
    at_rest = neutral(len(knobs.weight_robust), OPTIONAL)
    return {
        name: value
        for name, value in vars(knobs).items()
        if value is not None and value.ndim == 1 and (value != getattr(at_rest, name)).any()
    }
