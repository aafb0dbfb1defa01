"""Signs of gradient masking: probes of the model's outputs and gradients, and attacks that reveal it.

    probes = probe(logits_fn, images, labels)      # can be jitted; one row per example
    for experiment in EXPERIMENTS:
        attack = experiment.build(norm, num_classes)
        is_robust[experiment.name] = ...           # bool [N], of the same examples
    signs.signs(labels, class_names, probes, is_robust)

The conclusions are drawn in ../evaluation/signs.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks import losses, suites
from jaxrobust.attacks.attack import Attack

# As the checks in AutoAttack's code (Croce & Hein 2020).
REPEATS = 5  # evaluations of the same images
PROBABILITY_TOLERANCE = 1e-5  # of outputs outside [0, 1], and of a sum that is not 1

VERSION = 1  # of the probes: stored probes of an earlier version are computed again

TINY = 1e-6  # a perturbation 4,000 times smaller than a grey level; a continuous model hardly reacts to it


class Probes(NamedTuple):
    """Properties of the model at each example; arrays [B]."""

    correct: jax.Array  # bool, whether it is classified correctly
    # largest absolute derivative of the cross-entropy with respect to a pixel; exactly 0 if all are 0.
    gradient: jax.Array
    margin_gradient: jax.Array  # the same of the margin loss
    probability: jax.Array  # bool, whether the outputs look like probabilities
    change: jax.Array  # largest distance of the outputs for the same image, each divided by its norm
    # by how much a perturbation of TINY changes the margin beyond what its gradient says, over the range of the logits.
    jump: jax.Array
    gap: jax.Array  # the largest logit minus the second
    saturated: jax.Array  # bool, whether the probability of the label is exactly 1 in float32
    resolution: jax.Array  # the spacing of float32 at the largest logit over the range of the logits


def probe(logits_fn, images, labels) -> Probes:
    """Probe a model at some images [B, H, W, C] with labels [B], at the cost of 9 forward passes."""
    logits, pullback = jax.vjp(logits_fn, images)

    def gradient(loss):
        return pullback(jax.grad(lambda logits: loss(logits, labels).sum())(logits).astype(logits.dtype))[0]

    cross_entropy_gradient, margin_gradient = gradient(losses.cross_entropy), gradient(losses.margin)
    spread = jnp.maximum(logits.max(-1) - logits.min(-1), jnp.finfo(logits.dtype).tiny)
    largest = jax.lax.top_k(logits, 2)[0]
    # Towards grey, so that it stays in the box. The actual perturbation differs from TINY by rounding.
    moved = images + jnp.where(images < 0.5, TINY, -TINY)
    expected = (margin_gradient * (moved - images)).sum((1, 2, 3))
    jump = losses.margin(logits_fn(moved), labels) - losses.margin(logits, labels) - expected
    in_range = (logits > -PROBABILITY_TOLERANCE) & (logits < 1 + PROBABILITY_TOLERANCE)
    magnitude = jnp.abs(logits).max(-1).astype(jnp.float32)
    return Probes(
        correct=logits.argmax(-1) == labels,
        gradient=jnp.abs(cross_entropy_gradient).max((1, 2, 3)),
        margin_gradient=jnp.abs(margin_gradient).max((1, 2, 3)),
        probability=in_range.all(-1) & (jnp.abs(logits.sum(-1) - 1) < PROBABILITY_TOLERANCE),
        change=_change(logits_fn, images),
        jump=jnp.abs(jump) / spread,
        gap=largest[:, 0] - largest[:, 1],
        saturated=losses.cross_entropy(logits - largest[:, :1], labels) == 0,
        resolution=(jnp.nextafter(magnitude, jnp.inf) - magnitude) / spread,
    )


def _change(logits_fn, images):
    """Largest distance [B] between the normalised outputs of repeated passes, each with the batch in another order."""

    def output(carry, shift):
        # The barrier prevents the compiler from merging the passes into one.
        turned, shift = jax.lax.optimization_barrier((jnp.roll(images, shift, axis=0), shift))
        logits = jnp.roll(logits_fn(turned), -shift, axis=0)
        # Divided by the largest first: its square may overflow float32.
        logits = logits / jnp.maximum(jnp.abs(logits).max(-1, keepdims=True), 1e-30)
        return carry, logits / (jnp.linalg.norm(logits, axis=-1, keepdims=True) + 1e-10)

    outputs = jax.lax.scan(output, None, jnp.arange(REPEATS))[1]
    return jnp.linalg.norm(outputs[:, None] - outputs[None], axis=-1).max((0, 1))


def scale_free_cross_entropy(logits, labels):
    """Cross-entropy [B] of logits brought to a fixed spread, so that their scale and offset do not matter.

    The largest logit is shifted to 0, and the mean of all K is scaled to -2 log K, as for a fairly confident model. No
    gradient flows through shift and scale. Logits times 100, or plus 10^6, give the same loss up to float32 rounding.
    """
    below = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    spread = jax.lax.stop_gradient(-below.mean(-1, keepdims=True))
    below = below / jnp.where(spread > 0, spread, 1)
    return losses.cross_entropy(2 * math.log(logits.shape[-1]) * below, labels)


@dataclass(frozen=True)
class Experiment:
    """An attack whose result can reveal masking."""

    attack: str  # its name in the grammar of `suites`
    radius: float = 1.0  # in multiples of the threat's; infinite: `threats.largest_radius`
    loss: Callable | None = None  # replaces the attack's own loss

    @property
    def name(self) -> str:
        """The name under which `signs` looks for it: that of the attack, for the plain one."""
        changed = "_scale_free" if self.loss else ""
        return f"{self.attack}{changed}" + ("" if self.radius == 1 else f"@{self.radius:g}")

    def build(self, norm: str, num_classes: int, relative_step: float = 0.25) -> Attack:
        """The attack, as `suites.AttackSpec.build`, whose own radius is still the threat's."""
        (spec,) = suites.parse(self.attack, norm).members
        attack = spec.build(norm, num_classes, relative_step)
        return replace(attack, loss=self.loss) if self.loss else attack


# The attacks of a masking audit: few, cheap and informative.
EXPERIMENTS = (
    Experiment("pgd20"),
    Experiment("cw20"),
    Experiment("pgd100"),
    Experiment("pgd20x5"),
    Experiment("pgd20", loss=scale_free_cross_entropy),
    Experiment("pgd20", radius=0.5),
    Experiment("pgd20", radius=2),
    Experiment("pgd20", radius=math.inf),
    Experiment("square1000"),
)
