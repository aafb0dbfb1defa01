"""The steps of an evaluation: pure functions of one device's share of a batch. Those of training: training/step.py.

They use the named axis `parallel.AXIS` for their collectives and run the same under `parallel.spmd` and `jax.pmap`.
Random numbers come from one key per example, (seed, index in the split), so that results do not depend on the number of
devices.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.attacks import landscape, losses, masking, threats
from jaxrobust.attacks.attack import Attack, Examples, fold_in, fold_in_ids, one_against_rest
from jaxrobust.attacks.pgd import LOOP
from jaxrobust.data.augment import to_float
from jaxrobust.distributed.parallel import AXIS, REPLICATED, SHARDED, Step, step
from jaxrobust.models.weights import Weights

_PREDICTION = {"prediction": SHARDED, "finite": REPLICATED}
_VERIFIED = _PREDICTION | {"constraint_violation": REPLICATED}


def forward_of(model) -> Callable:
    """(weights, images [B, H, W, C]) -> logits [B, C] of a Flax model in evaluation mode."""
    return lambda weights, images: apply(model, weights, images, train=False)[0]


def prepared_of(model) -> Callable:
    """(weights, images) -> (images -> logits) of a Flax model in evaluation mode, see `prepared_logits_fn`."""
    return lambda weights, images: prepared_logits_fn(model, weights, images, train=False)


def features_of(model) -> Callable:
    """(weights, images [B, H, W, C]) -> (features [B, D], what the head sees, logits [B, C]) of a Flax model."""

    def forward(model, images):
        features = model.features(images)
        return features, model.head(features)

    return lambda weights, images: model.apply(weights.variables, images, method=forward)


def predicted(logits):
    """The class [B] of each row of logits [B, C]; -1, which is no class, where they are not all finite."""
    return jnp.where(jnp.isfinite(logits).all(-1), logits.argmax(-1), -1)


def make_predict_step(forward: Callable) -> Step:
    """The step (weights, images [B, H, W, C]) -> dict of prediction [B], -1 if a logit is not finite, and finite [].

    Args:
        forward: (weights, images) -> logits [B, C] of the float32 model. Its prediction, at the highest matmul
            precision, is the one that is reported.
    """

    @step(REPLICATED, SHARDED, out=_PREDICTION)
    def predict_step(weights, images):
        with jax.default_matmul_precision("highest"):
            logits = forward(weights, to_float(images))
        return {
            "prediction": predicted(logits),
            "finite": lax.pmin(jnp.isfinite(logits).all().astype(jnp.int32), AXIS),
        }

    return predict_step


def make_verify_step(forward: Callable, norm: threats.Norm) -> Step:
    """The step that classifies perturbed images in float32 and checks that they are allowed.

    Args:
        forward: as of `make_predict_step`.

    Returns:
        verify_step(weights, images, adversarial [B, H, W, C], radius [B]) -> that of `make_predict_step` on the
            adversarial images, and constraint_violation []: the most by which a perturbation is outside of the ball or
            the box, 0 up to rounding; for the ball divided by the radius where that is above 1.
    """
    predict_step = make_predict_step(forward)

    @step(REPLICATED, SHARDED, SHARDED, SHARDED, out=_VERIFIED)
    def verify_step(weights, images, adversarial, radius):
        images, adversarial = to_float(images), to_float(adversarial)
        outside_box = jnp.maximum(adversarial - 1.0, -adversarial).max(axis=(1, 2, 3))
        outside_ball = (norm.size(adversarial - images) - radius) / jnp.maximum(radius, 1.0)
        violation = lax.pmax(jnp.maximum(outside_ball, outside_box).max(), AXIS)
        return predict_step(weights, adversarial) | {"constraint_violation": violation}

    return verify_step


def make_ranking_step(forward: Callable, count: int) -> Step:
    """The step (weights, images [B, H, W, C]) -> dict of ranking [B, count], the prediction first, and finite []."""

    @step(REPLICATED, SHARDED, out={"ranking": SHARDED, "finite": REPLICATED})
    def ranking_step(weights, images):
        with jax.default_matmul_precision("highest"):
            logits = forward(weights, to_float(images))
        return {
            "ranking": lax.top_k(logits, count)[1],
            "finite": lax.pmin(jnp.isfinite(logits).all().astype(jnp.int32), AXIS),
        }

    return ranking_step


def make_features_step(features: Callable) -> Step:
    """The step (weights, images) -> (features [B, D], logits [B, C]) of `features_of` the float32 model."""

    @step(REPLICATED, SHARDED, out=SHARDED)
    def features_step(weights, images):
        with jax.default_matmul_precision("highest"):
            return features(weights, to_float(images))

    return features_step


def make_probe_step(prepared: Callable) -> Step:
    """The step (weights, images, labels [B]) -> masking.Probes of the model that attacks see, `prepared_of`."""

    @step(REPLICATED, SHARDED, SHARDED, out=SHARDED)
    def probe_step(weights, images, labels):
        images = to_float(images)
        return masking.probe(prepared(weights, images), images, labels)

    return probe_step


def make_zero_gradient_step(prepared: Callable) -> Step:
    """The step (weights, images, labels [B]) -> bool [B], whether the gradient of the cross-entropy of the model that
    attacks see, `prepared_of`, is exactly zero.
    """

    @step(REPLICATED, SHARDED, SHARDED, out=SHARDED)
    def zero_gradient_step(weights, images, labels):
        images = to_float(images)
        logits_fn = prepared(weights, images)
        gradient = jax.grad(lambda images: losses.cross_entropy(logits_fn(images), labels).sum())(images)
        return (gradient == 0).all(axis=(1, 2, 3))

    return zero_gradient_step


def make_landscape_step(prepared: Callable, norm: str, radius: float) -> Step:
    """The step (weights, images [B, H, W, C], labels [B], ids [B]) -> Landscape of `prepared_of` the float32 model."""

    @step(REPLICATED, SHARDED, SHARDED, SHARDED, out=SHARDED)
    def landscape_step(weights, images, labels, ids):
        images = to_float(images)
        keys = fold_in_ids(jax.random.key(0), ids)
        with jax.default_matmul_precision("highest"):
            return landscape.landscape(prepared(weights, images), norm, images, labels, keys, radius)

    return landscape_step


def make_attack_steps(
    prepared: Callable, verify_step: Step, attack: Attack, length: int, *, targeted: bool = False
) -> tuple[Step, Step]:
    """The steps that do a part of a run of an attack, `length` iterations, and verify its images so far.

    Args:
        prepared: (weights, images) -> (images -> logits), the model that the attack sees, see `prepared_of`.
        verify_step: see `make_verify_step`.
        targeted: labels are target classes, not true ones. The attack must then be built for two classes.

    Returns:
        begin(weights, images [B, H, W, C], labels [B], ids [B], radius [B], key, run) -> (state, verified): from the
            start of run number `run`. `ids` tell examples apart, `key` is of the evaluation.
        go_on(weights, images, labels, ids, radius, key, run, first, state) -> (state, verified): from iteration
            `first`; the state is donated.
        `verified` is the result of the verify step, with
            wasted_steps [B]: in how many of these iterations the example was misclassified before the step.
    """

    def prepare(weights, images, labels, ids, radius, key, run):
        images = to_float(images)
        keys = fold_in(fold_in_ids(key, ids), run)
        logits_fn = prepared(weights, images)
        if targeted:
            logits_fn, labels = one_against_rest(logits_fn, labels), jnp.zeros_like(labels)
        return logits_fn, Examples(images, labels, keys, radius)

    def advance(weights, logits_fn, examples, first, state):
        @jax.named_scope(LOOP)
        def loop(state):
            def step(carry, iteration):
                state, wasted = carry
                wasted += state.is_adversarial
                return (attack.step(logits_fn, examples, state, first + iteration), wasted), None

            wasted = jnp.zeros(len(examples.labels), jnp.int32)
            return lax.scan(step, (state, wasted), jnp.arange(length))[0]

        state, wasted = loop(state)
        verified = verify_step(weights, examples.images, state.adversarial, examples.radius)
        return state, verified | {"wasted_steps": wasted}

    arguments = (REPLICATED, SHARDED, SHARDED, SHARDED, SHARDED, REPLICATED, REPLICATED)
    out = (SHARDED, _VERIFIED | {"wasted_steps": SHARDED})

    @step(*arguments, out=out)
    def begin(weights, images, labels, ids, radius, key, run):
        logits_fn, examples = prepare(weights, images, labels, ids, radius, key, run)
        return advance(weights, logits_fn, examples, 0, attack.start(logits_fn, examples, run))

    @step(*arguments, REPLICATED, SHARDED, out=out, donate=(8,))
    def go_on(weights, images, labels, ids, radius, key, run, first, state):
        logits_fn, examples = prepare(weights, images, labels, ids, radius, key, run)
        return advance(weights, logits_fn, examples, first, state)

    return begin, go_on


def make_robust_counts_step(prepared: Callable, verify_step: Step, attacks: Sequence[Attack]) -> Step:
    """The step that counts images classified correctly both without an attack and under each attack, of one run.

    Args:
        prepared, verify_step: as of `make_attack_steps`.

    Returns:
        robust_counts(weights, images [B, H, W, C], labels [B], ids [B], radius [B], key) -> counts over all devices,
            one for each attack. An image with label -1 is not counted.
    """
    begins = [make_attack_steps(prepared, verify_step, attack, attack.iterations)[0] for attack in attacks]

    @step(REPLICATED, SHARDED, SHARDED, SHARDED, SHARDED, REPLICATED, out=REPLICATED)
    def robust_counts(weights, images, labels, ids, radius, key):
        is_correct = verify_step(weights, images, images, radius)["prediction"] == labels
        found = [begin(weights, images, labels, ids, radius, key, 0)[1]["prediction"] for begin in begins]
        counts = [(is_correct & (prediction == labels)).sum() for prediction in found]
        return lax.psum(jnp.stack(counts), AXIS)

    return robust_counts


def apply(model, weights: Weights, images, *, train: bool, rngs: dict | None = None):
    """Logits [B, C] and the batch statistics after the pass, which only a pass in train mode changes; what the model
    draws in train mode is from the keys `rngs`, as Flax takes them.
    """
    if not train:
        return model.apply(weights.variables, images, train=False), weights.batch_stats
    logits, updates = model.apply(weights.variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
    return logits, updates.get("batch_stats", weights.batch_stats)


def prepared_logits_fn(model, weights: Weights, images, *, train: bool, rngs: dict | None = None) -> Callable:
    """images -> logits, for many passes with the same weights and the same draws from `rngs`; what depends only on the
    weights is computed here, once. Of `images` [B, H, W, C] the shape alone matters.
    """
    # Only the part of this pass that depends on the weights alone is kept; the compiler removes the rest.
    _, prepared = model.apply(weights.variables, images[:1], train=train, mutable=["prepared"], rngs=rngs)
    return lambda images: model.apply(weights.variables | prepared, images, train=train, rngs=rngs)
