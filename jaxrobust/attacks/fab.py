"""FAB, which searches for the smallest perturbation that changes the class (Croce & Hein 2020, "Minimally distorted
adversarial examples with a fast adaptive boundary attack").

Each step linearises the decision boundary, projects both the iterate and the image onto it inside the box, and moves to
a point slightly beyond a weighted mean of the two projections. If that point is misclassified, the iterate moves part
of the way back to the image. The last step ends with a search on the segment from the image to the nearest adversarial
image found.

The radius does not influence the steps. It only decides which perturbations count as a success. So one run gives an
upper bound of an example's distance to the boundary:

    attack = Fab(norm="linf", classes=10, targets=9)
    state = attack.start(logits_fn, examples, run)
    state = attack.step(logits_fn, examples, state, iteration)
    state.distance      # [B], of state.nearest, whatever the radius
    state.adversarial   # misclassified exactly where distance <= radius
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks import ascent, hyperplane, losses, threats
from jaxrobust.attacks.attack import Examples, fold_in

_SEARCH_STEPS = 3  # forward passes of the search at the end, as published
_SMALLEST_SIZE = 1e-8  # of a displacement: two displacements of 0 get equal weights


class FabState(NamedTuple):
    """Where a run stands."""

    # [B, H, W, C], the image of largest margin so far in the ball and in the box. Not the nearest one: it is at the
    # boundary, where rounding decides the class.
    adversarial: jax.Array
    score: jax.Array  # [B], its margin
    # [B, H, W, C], the misclassified image nearest to the original, in the box; the original if none is.
    nearest: jax.Array
    distance: jax.Array  # [B], of `nearest`; infinite if none is misclassified
    nearest_logits: jax.Array  # [B, K] for K classes, of `nearest`
    clean_logits: jax.Array  # [B, K], of the original
    iterate: jax.Array  # [B, H, W, C], where the next step starts
    target: jax.Array  # [B] int, the class whose boundary is approached; in an untargeted run the label

    @property
    def is_adversarial(self):
        return self.score > 0


@dataclasses.dataclass(frozen=True)
class Fab(ascent.Runs):
    """`iterations` steps in each of `restarts` runs, or of that many for each target."""

    norm: str  # linf, l2 or l1; the distance is minimised in this norm
    classes: int  # how many the model has
    iterations: int = 100  # steps of a run
    # runs towards each target. The first starts at the image, the others at a random point half a radius away.
    restarts: int = 1
    # 0: each step approaches the nearest of the boundaries to all other classes, which costs a gradient for each class.
    # k: run r approaches the boundary to one wrong class, the one of rank r % k by the logits of the clean image; rank
    # 0 has the largest logit. A success in any class counts.
    targets: int = 0
    alpha_max: float = 0.1  # largest weight of the projection of the image, which draws the iterate back to it
    eta: float = 1.05  # extrapolation beyond the boundary
    beta: float = 0.9  # share of the perturbation that is kept after a success

    def __post_init__(self):
        if self.norm not in threats.NAMES:
            raise ValueError(f"norm {self.norm!r}: use one of {', '.join(threats.NAMES)}")
        if self.iterations < 1 or self.restarts < 1 or self.classes < 2:
            raise ValueError("at least one iteration, one restart and two classes are required")
        if not 0 <= self.targets < self.classes:
            raise ValueError(f"targets {self.targets}: {self.classes} classes have {self.classes - 1} wrong ones")

    start_passes = 1.0

    @property
    def step_passes(self) -> float:
        """A forward pass and a backward one for each boundary, one to classify the point, and a share of the search."""
        boundaries = 1 if self.targets else self.classes - 1
        return 1.0 + boundaries + 1.0 + _SEARCH_STEPS / self.iterations

    def start(self, logits_fn, examples: Examples, run) -> FabState:
        """The state before the first step of run number `run`."""
        images, labels = examples.images, examples.labels
        logits = logits_fn(images)
        if logits.shape[-1] != self.classes:
            raise ValueError(f"the model has {logits.shape[-1]} classes, the attack {self.classes}")
        margin = losses.margin(logits, labels)
        nothing = FabState(
            adversarial=images,
            score=margin,
            nearest=images,
            distance=jnp.full_like(margin, jnp.inf),
            nearest_logits=logits,
            clean_logits=logits,
            iterate=self._first_iterate(examples, run),
            target=self.targets_of(lambda _: logits, examples, run).astype(labels.dtype) if self.targets else labels,
        )
        return self._record(examples, nothing, images, logits)[0]

    def step(self, logits_fn, examples: Examples, state: FabState, iteration) -> FabState:
        """The state after step number `iteration`."""
        images = examples.images
        normal, value = self._nearest_boundary(logits_fn, examples, state)
        value_at_image = value + (normal * (images - state.iterate)).sum((1, 2, 3))
        displacement = functools.partial(hyperplane.displacement, self.norm)
        from_iterate, from_image = jax.vmap(displacement, (0, None, 0))(
            jnp.stack([state.iterate, images]), normal, jnp.stack([value, value_at_image])
        )
        length, image_length = (jnp.maximum(self._size(move), _SMALLEST_SIZE) for move in (from_iterate, from_image))
        alpha = threats.per_example(jnp.minimum(length / (length + image_length), self.alpha_max), images)
        moved = (state.iterate + self.eta * from_iterate) * (1 - alpha) + (images + self.eta * from_image) * alpha
        moved = jnp.clip(moved, 0.0, 1.0)
        state, wrong = self._record(examples, state, moved, logits_fn(moved))
        iterate = jnp.where(threats.per_example(wrong, images), images + self.beta * (moved - images), moved)
        state = state._replace(iterate=iterate)
        return jax.lax.cond(
            iteration == self.iterations - 1,
            lambda state: self._search(logits_fn, examples, state),
            lambda state: state,
            state,
        )

    def _size(self, perturbation):
        return threats.NORMS[self.norm].size(perturbation)

    def _first_iterate(self, examples, run):
        """The image itself, and from the second restart on a random point at half the radius."""
        images = examples.images
        if self.restarts == 1:
            return images
        uniform = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
        draw = uniform if self.norm == "linf" else jax.random.normal
        direction = jax.vmap(lambda key: draw(key, images.shape[1:]))(fold_in(examples.keys, 0))
        length = 0.5 * examples.radius / jnp.maximum(self._size(direction), 1e-12)
        random = jnp.clip(images + direction * threats.per_example(length, images), 0.0, 1.0)
        return jnp.where(run // max(self.targets, 1) > 0, random, images)

    def _nearest_boundary(self, logits_fn, examples, state):
        """Normal [B, H, W, C] and value [B] of the nearest linearised boundary at the iterate; 0 without gradients."""
        # The gradients of the logit differences are computed one after another: all at once would need the memory of
        # that many images.
        logits, pull_back = jax.vjp(logits_fn, state.iterate)
        if self.targets:
            others = state.target[None]
        else:
            # The classes after the label, cyclically: one boundary fewer than there are classes.
            steps = jnp.arange(1, self.classes, dtype=examples.labels.dtype)
            others = (examples.labels[None] + steps[:, None]) % self.classes

        def nearer(best, other):
            best_distance, best_normal, best_value = best
            value = losses.targeted_margin(logits, examples.labels, other)
            difference = jax.nn.one_hot(other, self.classes) - jax.nn.one_hot(examples.labels, self.classes)
            (normal,) = pull_back(difference.astype(logits.dtype))
            distance = hyperplane.distance(self.norm, normal, value)
            closer = distance < best_distance
            best_normal = jnp.where(threats.per_example(closer, normal), normal, best_normal)
            return (jnp.minimum(distance, best_distance), best_normal, jnp.where(closer, value, best_value)), None

        none = jnp.full(len(logits), jnp.inf), jnp.zeros_like(state.iterate), jnp.zeros(len(logits))
        (_, normal, value), _ = jax.lax.scan(nearer, none, others)
        return jnp.where(jnp.isfinite(normal), normal, 0.0), value

    def _record(self, examples, state, candidate, logits):
        """The state with the candidate where it is an improvement, and whether it is misclassified [B]."""
        margin = losses.margin(logits, examples.labels)
        # Where the logits are NaN the model has not classified the image.
        wrong = (logits.argmax(-1) != examples.labels) | jnp.isnan(margin)
        distance = self._size(candidate - examples.images)
        nearer = wrong & (distance < state.distance)
        # With equal logits the model predicts the first class, so a margin of 0 may be a success.
        score = jnp.where(wrong, jnp.maximum(jnp.nan_to_num(margin, nan=jnp.inf), 1e-30), margin)
        worse = (distance <= examples.radius) & (score > state.score)
        adversarial, score = ascent.choose(worse, (candidate, score), (state.adversarial, state.score))
        old = state.nearest, state.distance, state.nearest_logits
        nearest, distance, nearest_logits = ascent.choose(nearer, (candidate, distance, logits), old)
        return FabState(adversarial, score, nearest, distance, nearest_logits, *state[5:]), wrong

    def _search(self, logits_fn, examples, state):
        """Secant steps on the segment from the image to the nearest adversarial image."""

        def narrow(carry, _):
            state, low, low_logits = carry
            # For one class, not for the margin: with the maximum of several classes the secant would stop short of the
            # boundary even on a linear model.
            adversarial_class = state.nearest_logits.argmax(-1)
            below, above = (
                losses.targeted_margin(logits, examples.labels, adversarial_class)
                for logits in (low_logits, state.nearest_logits)
            )
            share = below / (below - above)
            # Slightly beyond the root: exactly there, rounding would decide the class on a linear model.
            share = jnp.where((share >= 0) & (share <= 1), 0.99 * share + 0.01, 1.0)
            candidate = low + threats.per_example(share, low) * (state.nearest - low)
            logits = logits_fn(candidate)
            state, wrong = self._record(examples, state, candidate, logits)
            return (state, *ascent.choose(wrong, (low, low_logits), (candidate, logits))), None

        carry = state, examples.images, state.clean_logits
        return jax.lax.scan(narrow, carry, length=_SEARCH_STEPS)[0][0]
