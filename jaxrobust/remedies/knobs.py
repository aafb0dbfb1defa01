"""The class knobs: every per-class dial that a remedy may turn."""

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
    """One float32 array per dial, [C] where not said otherwise.

    With every dial at its neutral value, training is plain adversarial training. The last four are None where nothing
    turns them, and cost nothing then.

    Attributes:
        weight_natural: factor on the loss of unperturbed images; neutral 1.
        weight_robust: factor on the loss of adversarial images; neutral 1.
        beta_scale: factor on the trade-off between the two losses; neutral 1.
        radius_scale: factor on the radius and the step of the attack in training; neutral 1.
        margin: subtracted from the true logit in the training loss; neutral 0.
        log_prior: added to the logits in the training loss; neutral 0.
        sampling: how often an image of the class is drawn, relative to the others; neutral 1, each once an epoch.
        logit_scale: factor on the logits in the training loss; neutral 1.
        focusing: exponent g of the factor (1 - p_true)^g on the training loss; neutral 0.
        confusion_weight: [C, C], added to the weight of the cross-entropy of an adversarial image that is predicted as
            the first class and is of the second; neutral 0.
        target_logit: attacks in training go for a wrong class, drawn with the softmax of these; neutral -inf for all,
            and then they go away from the true class.
    """

    weight_natural: jax.Array
    weight_robust: jax.Array
    beta_scale: jax.Array
    radius_scale: jax.Array
    margin: jax.Array
    log_prior: jax.Array
    sampling: jax.Array
    logit_scale: jax.Array | None = None
    focusing: jax.Array | None = None
    confusion_weight: jax.Array | None = None
    target_logit: jax.Array | None = None


def neutral(num_classes: int, turned=()) -> ClassKnobs:
    """Knobs that change nothing; of the optional ones those `turned`, by name, are there."""
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
