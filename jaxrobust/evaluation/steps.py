"""The steps of an evaluation: pure functions of one device's share of a batch. Those of training: training/step.py.

They use the named axis `parallel.AXIS` for their collectives and run the same under `parallel.spmd` and `jax.pmap`.
Random numbers come from one key per example, (seed, index in the split), so that results do not depend on the number of
devices.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.attacks import landscape, masking, threats
from jaxrobust.attacks.attack import Attack, Examples, fold_in, fold_in_ids, one_against_rest
from jaxrobust.attacks.pgd import LOOP
from jaxrobust.data.augment import to_float
from jaxrobust.distributed.parallel import AXIS
from jaxrobust.models.weights import Weights


def make_judge_step(judge_model, norm: threats.Norm) -> Callable:
    """The function that classifies images and checks that they are allowed.

    Args:
        judge_model: the model in float32. Its verdict, at the highest matmul precision, is the one that counts.

    Returns:
        judge_step(weights, images [B, H, W, C], adversarial [B, H, W, C], radius [B]) -> dict of
            prediction [B]: the judge's, on the adversarial images; -1, which is no class, if a logit is not finite;
            excess []: the most by which a perturbation is outside of the ball or the box, 0 up to rounding; for the
                ball divided by the radius where that is above 1;
            finite []: whether all logits are finite numbers.
    """

    def judge_step(weights: Weights, images, adversarial, radius):
        images, adversarial = to_float(images), to_float(adversarial)
        with jax.default_matmul_precision("highest"):
            logits, _ = apply(judge_model, weights, adversarial, train=False)
        outside_box = jnp.maximum(adversarial - 1.0, -adversarial).max(axis=(1, 2, 3))
        outside_ball = (norm.size(adversarial - images) - radius) / jnp.maximum(radius, 1.0)
        finite = jnp.isfinite(logits).all(-1)
        return {
            "prediction": jnp.where(finite, logits.argmax(-1), -1),
            "excess": lax.pmax(jnp.maximum(outside_ball, outside_box).max(), AXIS),
            "finite": lax.pmin(finite.all().astype(jnp.int32), AXIS),
        }

    return judge_step


def make_ranking_step(judge_model, count: int) -> Callable:
    """The function that ranks classes: (weights, images [B, H, W, C]) -> dict of
        ranking [B, count]: the classes of the largest logits, largest first;
        finite []: whether all logits are finite numbers.

    Args:
        judge_model: as of `make_judge_step`, whose prediction comes first.
    """

    def ranking_step(weights: Weights, images):
        with jax.default_matmul_precision("highest"):
            logits, _ = apply(judge_model, weights, to_float(images), train=False)
        return {
            "ranking": lax.top_k(logits, count)[1],
            "finite": lax.pmin(jnp.isfinite(logits).all().astype(jnp.int32), AXIS),
        }

    return ranking_step


def make_features_step(judge_model) -> Callable:
    """The function (weights, images [B, H, W, C]) -> (features [B, D], what the head sees, and logits [B, C]), float32.

    Args:
        judge_model: as of `make_judge_step`.
    """

    def forward(model, images):
        features = model.features(images)
        return features, model.head(features)

    def features_step(weights: Weights, images):
        with jax.default_matmul_precision("highest"):
            return judge_model.apply(weights.variables, to_float(images), method=forward)

    return features_step


def make_probe_step(attack_model) -> Callable:
    """The function that measures signs of gradient masking: (weights, images [B, H, W, C], labels [B]) -> Probes.

    Args:
        attack_model: the model that attacks see, in the run's dtype.
    """

    def probe_step(weights: Weights, images, labels):
        images = to_float(images)
        return masking.probe(prepared_logits_fn(attack_model, weights, images, train=False), images, labels)

    return probe_step


def make_landscape_step(judge_model, norm: str, radius: float) -> Callable:
    """The function that measures around images: (weights, images [B, H, W, C], labels [B], ids [B]) -> Landscape.

    Args:
        judge_model: as of `make_judge_step`.
        norm, radius: of the threat, see landscape.landscape.
    """

    def landscape_step(weights: Weights, images, labels, ids):
        images = to_float(images)
        keys = fold_in_ids(jax.random.key(0), ids)
        with jax.default_matmul_precision("highest"):
            logits_fn = prepared_logits_fn(judge_model, weights, images, train=False)
            return landscape.landscape(logits_fn, norm, images, labels, keys, radius)

    return landscape_step


def make_attack_steps(
    attack_model, judge_step, attack: Attack, length: int, *, towards: bool = False
) -> tuple[Callable, Callable]:
    """The functions that do a part of a run of an attack, `length` iterations, and judge its images so far.

    Args:
        attack_model: the model that the attack sees, in the run's dtype.
        judge_step: as `make_judge_step` gives it.
        towards: labels are target classes, not true ones. The attack must then be built for two classes.

    Returns:
        begin(weights, images [B, H, W, C], labels [B], ids [B], radius [B], key, run) -> (state, verdict): from the
            start of run number `run`. `ids` tell examples apart, `key` is of the evaluation.
        go_on(weights, images, labels, ids, radius, key, run, first, state) -> (state, verdict): from iteration `first`.
        A verdict is the result of the judge step, with
            idle [B]: in how many of these iterations the example was already broken before the step.
    """

    def prepare(weights, images, labels, ids, radius, key, run):
        images = to_float(images)
        keys = fold_in(fold_in_ids(key, ids), run)
        logits_fn = prepared_logits_fn(attack_model, weights, images, train=False)
        if towards:
            logits_fn, labels = one_against_rest(logits_fn, labels), jnp.zeros_like(labels)
        return logits_fn, Examples(images, labels, keys, radius)

    def advance(weights, logits_fn, examples, first, state):
        @jax.named_scope(LOOP)
        def loop(state):
            def step(carry, iteration):
                state, idle = carry
                idle += state.is_adversarial
                return (attack.step(logits_fn, examples, state, first + iteration), idle), None

            idle = jnp.zeros(len(examples.labels), jnp.int32)
            return lax.scan(step, (state, idle), jnp.arange(length))[0]

        state, idle = loop(state)
        verdict = judge_step(weights, examples.images, state.adversarial, examples.radius)
        return state, verdict | {"idle": idle}

    def begin(weights, images, labels, ids, radius, key, run):
        logits_fn, examples = prepare(weights, images, labels, ids, radius, key, run)
        return advance(weights, logits_fn, examples, 0, attack.start(logits_fn, examples, run))

    def go_on(weights, images, labels, ids, radius, key, run, first, state):
        logits_fn, examples = prepare(weights, images, labels, ids, radius, key, run)
        return advance(weights, logits_fn, examples, first, state)

    return begin, go_on


def make_withstood_step(attack_model, judge_step, attacks: Sequence[Attack]) -> Callable:
    """The function that counts images classified correctly both without an attack and under each attack, of one run.

    Args:
        attack_model, judge_step: as of `make_attack_steps`.

    Returns:
        withstood(weights, images [B, H, W, C], labels [B], ids [B], radius [B], key) -> counts over all devices, one
            for each attack. An image with label -1 is not counted.
    """
    begins = [make_attack_steps(attack_model, judge_step, attack, attack.iterations)[0] for attack in attacks]

    def withstood(weights, images, labels, ids, radius, key):
        correct = judge_step(weights, images, images, radius)["prediction"] == labels
        verdicts = [begin(weights, images, labels, ids, radius, key, 0)[1] for begin in begins]
        counts = [(correct & (verdict["prediction"] == labels)).sum() for verdict in verdicts]
        return lax.psum(jnp.stack(counts), AXIS)

    return withstood


def apply(model, weights: Weights, images, *, train: bool):
    """Logits [B, C] and the batch statistics after the pass, which only a pass in train mode changes."""
    if not train:
        return model.apply(weights.variables, images, train=False), weights.batch_stats
    logits, updates = model.apply(weights.variables, images, train=True, mutable=["batch_stats"])
    return logits, updates.get("batch_stats", weights.batch_stats)


def prepared_logits_fn(model, weights: Weights, images, *, train: bool) -> Callable:
    """images -> logits, for many passes with the same weights; what depends only on the weights is computed here, once.

    Args:
        images: any images [B, H, W, C] of the right shape; their values do not matter.
    """
    # Only the part of this pass that depends on the weights alone is kept; the compiler removes the rest.
    _, prepared = model.apply(weights.variables, images[:1], train=train, mutable=["prepared"])
    return lambda images: model.apply(weights.variables | prepared, images, train=train)
