"""The train step and the steps of an evaluation: pure functions of one device's share of a batch.

Both use the named axis `parallel.AXIS` for their collectives and run the same under `parallel.spmd` and `jax.pmap`.
Random numbers come from one key per example, (seed, step, position in the global batch) in training and (seed, index in
the split) in evaluation, so that results do not depend on the number of devices.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxrobust import train_state
from jaxrobust.attacks import masking, threats
from jaxrobust.attacks.attack import Attack, Victims, one_against_rest
from jaxrobust.attacks.pgd import LOOP, Pgd
from jaxrobust.data.augment import to_float
from jaxrobust.objectives import Objective
from jaxrobust.parallel import AXIS
from jaxrobust.train_state import ClassSums, TrainState, Weights


class TrainAttack(NamedTuple):
    """The attack in training: its loop, radius and step in pixel units, and the mode of batch norm during it."""

    pgd: Pgd
    radius: float
    step_size: float
    batch_norm: str  # "train" | "eval"


def make_train_step(
    model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    attack: TrainAttack,
    *,
    augment: Callable,
    average_decay: float,
) -> Callable:
    """The function that makes one update.

    Args:
        augment: (keys [B], images [B, H, W, C]) -> images.
        average_decay: of the averaged weights; unused where the state keeps none.

    Returns:
        train_step(state, images [B, H, W, C], labels [B], key) -> (state, mean loss): the state is replicated, the
        batch is this device's share.
    """

    def train_step(state: TrainState, images, labels, key):
        augment_keys, attack_keys = example_keys(jax.random.fold_in(key, state.step), len(labels))
        images = augment(augment_keys, to_float(images))
        radius_scale = state.knobs.radius_scale[labels]

        logits_fn = prepared_logits_fn(model, state.weights, images, train=attack.batch_norm == "train")

        def perturb(loss, images, labels):
            radius, step_size = attack.radius * radius_scale, attack.step_size * radius_scale
            return attack.pgd(logits_fn, loss, images, labels, attack_keys, radius, step_size)

        perturbed = objective.perturb(perturb, logits_fn, images, labels)

        def loss_fn(params):
            def forward(batch_stats, images):
                return apply(model, Weights(params, batch_stats), images, train=True)

            output = objective.loss(forward, state.weights.batch_stats, images, perturbed, labels, state.knobs)
            return output.losses.mean(), output

        (loss, output), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.weights.params)
        # One collective for everything that is added up over devices.
        means, sums = lax.psum(((gradients, output.batch_stats, loss), class_sums(labels, output)), AXIS)
        gradients, batch_stats, loss = jax.tree.map(lambda total: total / lax.axis_size(AXIS), means)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.weights.params)
        weights = Weights(optax.apply_updates(state.weights.params, updates), batch_stats)
        averaged = state.averaged
        if averaged is not None:
            averaged = train_state.average(averaged, weights, state.step, average_decay)
        state = state.replace(
            step=state.step + 1,
            weights=weights,
            averaged=averaged,
            opt_state=opt_state,
            class_sums=jax.tree.map(lambda old, new: old + new.astype(old.dtype), state.class_sums, sums),
        )
        return state, loss

    return train_step


def over_resident(train_step: Callable, image_shape: tuple[int, int, int]) -> Callable:
    """The function that makes several updates in one program, with the training set on the device.

    Returns:
        train_steps(state, rows [N, H * W * C], labels [N], indices [S, B], key) -> (state, losses [S]): the training
        set is replicated, one image a row, because a TPU would copy a set [N, H, W, C] to a padded layout to take
        images out of it. The indices are this device's share of S batches.
    """

    def train_steps(state: TrainState, rows, labels, indices, key):
        def update(state, index):
            return train_step(state, rows[index].reshape(-1, *image_shape), labels[index], key)

        return lax.scan(update, state, indices)

    return train_steps


def make_judge_step(judge_model, norm: threats.Norm) -> Callable:
    """The function that classifies images and checks that they are allowed.

    Args:
        judge_model: the model in float32. Its verdict, at the highest matmul precision, is the one that counts.

    Returns:
        judge_step(weights, images [B, H, W, C], adversarial [B, H, W, C], radius [B]) -> dict of
            prediction [B]: the judge's, on the adversarial images; -1, which is no class, where a logit is no number;
            excess []: the most by which a perturbation leaves the ball or the box, 0 up to rounding, which grows with
                a radius above 1;
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


def make_probe_step(attack_model) -> Callable:
    """The function that looks for signs of gradient masking: (weights, images [B, H, W, C], labels [B]) -> Probes.

    Args:
        attack_model: the model that attacks see, in the run's dtype.
    """

    def probe_step(weights: Weights, images, labels):
        images = to_float(images)
        return masking.probe(prepared_logits_fn(attack_model, weights, images, train=False), images, labels)

    return probe_step


def make_attack_steps(
    attack_model, judge_step, attack: Attack, length: int, *, towards: bool = False
) -> tuple[Callable, Callable]:
    """The functions that do a part of an attack's run, `length` iterations, and judge what it has found so far.

    Args:
        attack_model: the model that the attack sees, in the run's dtype.
        judge_step: as `make_judge_step` gives it.
        towards: labels are classes to reach, and not those to leave. The attack is then one on two classes.

    Returns:
        begin(weights, images [B, H, W, C], labels [B], ids [B], radius [B], key, run) -> (state, verdict): from the
            start of run number `run`. `ids` tell examples apart, `key` is of the evaluation.
        go_on(weights, images, labels, ids, radius, key, run, first, state) -> (state, verdict): from iteration `first`.
        A verdict is that of the judge step, and
            idle [B]: the number of these iterations before which the example was broken already.
    """

    def prepare(weights, images, labels, ids, radius, key, run):
        images = to_float(images)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), run))(ids)
        logits_fn = prepared_logits_fn(attack_model, weights, images, train=False)
        if towards:
            logits_fn, labels = one_against_rest(logits_fn, labels), jnp.zeros_like(labels)
        return logits_fn, Victims(images, labels, keys, radius)

    def advance(weights, logits_fn, victims, first, state):
        @jax.named_scope(LOOP)
        def loop(state):
            def step(carry, iteration):
                state, idle = carry
                idle += state.broken
                return (attack.step(logits_fn, victims, state, first + iteration), idle), None

            idle = jnp.zeros(len(victims.labels), jnp.int32)
            return lax.scan(step, (state, idle), jnp.arange(length))[0]

        state, idle = loop(state)
        verdict = judge_step(weights, victims.images, state.adversarial, victims.radius)
        return state, verdict | {"idle": idle}

    def begin(weights, images, labels, ids, radius, key, run):
        logits_fn, victims = prepare(weights, images, labels, ids, radius, key, run)
        return advance(weights, logits_fn, victims, 0, attack.start(logits_fn, victims, run))

    def go_on(weights, images, labels, ids, radius, key, run, first, state):
        logits_fn, victims = prepare(weights, images, labels, ids, radius, key, run)
        return advance(weights, logits_fn, victims, first, state)

    return begin, go_on


def make_withstood_step(attack_model, judge_step, attacks: Sequence[Attack]) -> Callable:
    """The function that counts the images classified correctly as they are and under each attack, of one run.

    Args:
        attack_model, judge_step: as of `make_attack_steps`.

    Returns:
        withstood(weights, images [B, H, W, C], labels [B], ids [B], radius [B], key) -> counts over all devices, one
            for each attack. A label of -1 is never met.
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
    """images -> logits, for many passes with the same weights; what depends on these alone is computed here.

    Args:
        images: any of the shape of one of theirs, [B, H, W, C].
    """
    # Of this pass the weights' part alone is kept, so that the compiler drops the rest.
    _, prepared = model.apply(weights.variables, images[:1], train=train, mutable=["prepared"])
    return lambda images: model.apply(weights.variables | prepared, images, train=train)


def example_keys(step_key, batch_size: int):
    """Two keys [B] per example of this device's share of the batch, by its position in the global batch."""
    positions = lax.axis_index(AXIS) * batch_size + jnp.arange(batch_size)
    keys = jax.vmap(lambda position: jax.random.split(jax.random.fold_in(step_key, position)))(positions)
    return keys[:, 0], keys[:, 1]


def class_sums(labels, output) -> ClassSums:
    """Count, hits and loss of each class in this device's share of the batch.

    All are float32, to travel with the gradients, and exact as long as a batch has less than 2^24 examples.
    """
    # A sum and not a scatter-add, whose order, and so whose rounding, is not fixed on a GPU.
    member = labels[:, None] == jnp.arange(output.logits.shape[-1])[None]
    correct = output.logits.argmax(-1) == labels
    return ClassSums(
        count=member.sum(0, dtype=jnp.float32),
        correct=(member & correct[:, None]).sum(0, dtype=jnp.float32),
        loss=jnp.where(member, output.losses[:, None], 0.0).sum(0),
    )
