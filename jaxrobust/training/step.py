"""Training steps: pure functions of one device's share of a batch.

They use the named axis `parallel.AXIS` for their collectives and run the same under `parallel.spmd` and `jax.pmap`.
Random numbers come from one key per example, (seed, step, position in the global batch), so that results do not depend
on the number of devices.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Attacked, Pgd
from jaxrobust.data.augment import to_float
from jaxrobust.distributed.parallel import AXIS, REPLICATED, SHARDED, SHARDED_STEPS, Step, step
from jaxrobust.evaluation.steps import apply, prepared_logits_fn
from jaxrobust.models.weights import Weights
from jaxrobust.objectives import Objective
from jaxrobust.remedies import in_batch as in_batch_lib, knobs as knobs_lib
from jaxrobust.remedies.knobs import ClassKnobs
from jaxrobust.training import class_statistics, state as state_lib
from jaxrobust.training.class_statistics import Seen
from jaxrobust.training.state import TrainState

_DROPOUT = 2**32 - 1  # beyond the positions of a batch, from which `example_keys` makes its keys


class TrainAttack(NamedTuple):
    """The attack in training: radius and step size in pixel units, rising from 0 over `warmup_steps`; `batch_norm` is
    the mode of batch normalisation (and of dropout) meanwhile, "train" or "eval".
    """

    pgd: Pgd
    radius: float
    step_size: float
    batch_norm: str
    warmup_steps: int = 0


class _Batch(NamedTuple):
    """This device's share of a batch: augmented images [B, H, W, C], labels [B], keys [B] of the attack, factors [B] on
    its radius and step, and keys of the random numbers that the model draws, as Flax takes them."""

    images: jax.Array
    labels: jax.Array
    keys: jax.Array
    scale: jax.Array
    rngs: dict


class WeightPerturbation(NamedTuple):
    """Adversarial weight perturbation, see `perturb_weights`: `gamma`, the size of the perturbation of each kernel as a
    fraction of its norm, and the first training step with it.
    """

    gamma: float
    first_step: int


def make_train_step(
    model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    attack: TrainAttack,
    *,
    augment: Callable,
    average_decay: float | None,
    in_batch: Sequence[Callable] = (),
    in_batch_from: int = 0,
    observed: Sequence[str] = (),
    weight_perturbation: WeightPerturbation | None = None,
) -> Step:
    """The step that trains on one batch: one update, or `objective.replays` of them.

    Args:
        augment: (keys [B], images [B, H, W, C]) -> images.
        average_decay: decay of the averaged weights; unused if the state has none. None: this step does not average.
        in_batch: functions that compute class weights from the current batch, see remedies/in_batch.py; the weights of
            several functions are multiplied.
        in_batch_from: first step in which `in_batch` acts; in_batch weights of the objective act from the first step.
        observed: names of statistics to sum in addition to those that are always summed, see class_statistics.py.

    Returns:
        train_step(state, images [B, H, W, C], labels [B], key) -> (state, mean loss): the state is replicated and
        donated, the batch is this device's share.
    """
    attack = attack._replace(pgd=objective.vary(attack.pgd))
    in_batch = [(weights, in_batch_from) for weights in in_batch]
    if objective.in_batch:
        in_batch.append((objective.in_batch, 0))

    @step(REPLICATED, SHARDED, SHARDED, REPLICATED, out=REPLICATED, donate=(0,))
    def train_step(state: TrainState, images, labels, key):
        step_key = jax.random.fold_in(key, state.step)
        augment_keys, attack_keys = example_keys(step_key, len(labels))
        images = augment(augment_keys, to_float(images))
        scale = state.knobs.radius_scale[labels]
        if attack.warmup_steps:
            scale *= jnp.minimum(state.step / attack.warmup_steps, 1.0)
        batch = _Batch(images, labels, attack_keys, scale, {"dropout": dropout_key(step_key)})
        state, loss, sums = (replay if objective.replays else update_once)(state, batch)
        averaged = state.averaged
        if averaged is not None and average_decay is not None:
            averaged = state_lib.average(averaged, state.weights, state.step, average_decay)
        class_sums = class_statistics.add(state.class_sums, sums)
        return state.replace(step=state.step + 1, averaged=averaged, class_sums=class_sums), loss

    def update_once(state, batch: _Batch):
        images, labels, keys, scale, rngs = batch
        logits_fn = prepared_logits_fn(model, state.weights, images, train=attack.batch_norm == "train", rngs=rngs)
        attacked = objective.perturb and objective.perturb(
            attack_on(attack, logits_fn, images, labels, keys, scale, state.knobs), logits_fn, images
        )
        params = state.weights.params
        gradient_at = jax.value_and_grad(lambda params: loss_at(params, state, batch, attacked), has_aux=True)
        if weight_perturbation:
            gradients = lax.pmean(gradient_at(params)[1], AXIS)
            perturbed = perturb_weights(params, gradients, weight_perturbation.gamma)
            begun = state.step >= weight_perturbation.first_step
            params = jax.tree.map(lambda old, new: jnp.where(begun, new, old), params, perturbed)
        (loss, output), gradients = gradient_at(params)
        return descend(state, gradients, output, loss, labels, attacked)

    def replay(state, batch: _Batch):
        """Several updates on one batch, see `objectives.free`; returns the mean loss and the last statistics."""
        images, labels, keys, scale, _ = batch
        norm, radius, step_size = attack.pgd.norm, attack.radius * scale, attack.step_size * scale

        def once(carry, _):
            state, adversarial = carry

            def loss_of(params, adversarial):
                return loss_at(params, state, batch, Attacked(adversarial, correct_steps=None))

            gradient_at = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
            (loss, output), (gradients, gradient) = gradient_at(state.weights.params, adversarial)
            moved = threats.ascend(norm, images, adversarial, gradient, radius, step_size)
            state, loss, sums = descend(state, gradients, output, loss, labels, None)
            return (state, moved), (loss, sums)

        start = attack.pgd.start(norm, keys, images, radius)
        (state, _), (loss_by_update, sums) = lax.scan(once, (state, start), length=objective.replays)
        return state, loss_by_update.mean(), jax.tree.map(lambda sum: sum[-1], sums)

    def loss_at(params, state, batch: _Batch, attacked):
        images, labels = batch.images, batch.labels

        def forward(batch_stats, images):
            return apply(model, Weights(params, batch_stats), images, train=True, rngs=batch.rngs)

        output = objective.loss(forward, state.weights.batch_stats, images, attacked, labels, state.knobs)
        weighted = output.losses
        if in_batch:
            seen = jax.lax.stop_gradient(Seen(labels, output.logits, output.unweighted))
            of_batch = lax.psum(class_statistics.of_batch(in_batch_lib.STATISTICS, seen), AXIS)
            for weights, first_step in in_batch:
                factors = weights(of_batch)
                if first_step:
                    factors = jnp.where(state.step >= first_step, factors, 1.0)
                weighted *= factors[labels]
        return weighted.mean(), output

    def descend(state, gradients, output, loss, labels, attacked):
        """One update with the gradients of all devices; also returns the mean loss and the class statistics."""
        correct_steps = attacked.correct_steps if attacked else None
        seen = Seen(labels, output.logits, output.unweighted, output.natural_logits, correct_steps)
        # One collective for everything that is summed over devices.
        added = ((gradients, output.batch_stats, loss), class_statistics.of_batch(observed, seen))
        means, sums = lax.psum(added, AXIS)
        gradients, batch_stats, loss = jax.tree.map(lambda total: total / lax.axis_size(AXIS), means)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.weights.params)
        weights = Weights(optax.apply_updates(state.weights.params, updates), batch_stats)
        return state.replace(weights=weights, opt_state=opt_state), loss, sums

    return train_step


def attack_on(attack: TrainAttack, logits_fn, images, labels, keys, scale, knobs: ClassKnobs) -> Callable:
    """The attack on a batch as a function of what it maximises, loss(logits, labels) -> [B], to pgd.Attacked; by keys
    [B], with factors `scale` [B] on the radius and the step size.
    """

    def attacked(loss):
        if knobs.target_logit is not None:
            loss = targeted(loss, knobs.target_logit, draw_targets(keys, knobs.target_logit, labels))
        radius, step_size = attack.radius * scale, attack.step_size * scale
        return attack.pgd.attack(logits_fn, loss, images, labels, keys, radius, step_size)

    return attacked


def targeted(loss: Callable, target_logit, targets) -> Callable:
    """The given loss, or the cross-entropy towards the targets [B] if the knob `target_logit` is set (not all -inf)."""

    def loss_or_targeted(logits, labels):
        of_targets = losses.targeted_cross_entropy(logits, labels, targets)
        return jnp.where(jnp.isfinite(target_logit).any(), of_targets, loss(logits, labels))

    return loss_or_targeted


def draw_targets(keys, target_logit, labels):
    """A wrong class [B] for each example, with probabilities softmax(target_logit [C]) over its wrong classes."""
    wrong = labels[:, None] != jnp.arange(len(target_logit))[None]
    logits = jnp.where(wrong, target_logit[None], -jnp.inf)
    return jax.vmap(lambda key, logits: jax.random.categorical(jax.random.fold_in(key, 1), logits))(keys, logits)


def perturb_weights(params, gradients, gamma: float):
    """The weights moved in the direction of increasing loss (AWP, Wu et al. 2020): each kernel w by gamma |w| g / |g|.

    Biases and the parameters of normalisations, which have one axis, are not changed.
    """

    def moved(weight, gradient):
        if weight.ndim < 2:
            return weight
        length = jnp.linalg.norm(gradient)
        return weight + gamma * jnp.linalg.norm(weight) * gradient / jnp.maximum(length, 1e-12)

    return jax.tree.map(moved, params, gradients)


def make_observe_step(model, objective: Objective, attack: TrainAttack, observed: Sequence[str]) -> Step:
    """The step that sums class statistics of images that are not trained on, attacked as in training.

    The model runs in evaluation mode. Knobs are neutral, so that a remedy does not observe the effects of its own
    weights or radii on the attack and the loss.

    Args:
        observed: as for `make_train_step`.

    Returns:
        observe(weights, images [B, H, W, C], labels [B], ids [B], key) -> sums over all devices, see
        class_statistics.py. Examples with label -1 are not counted; `ids` give each example its own random key.
    """

    attack = attack._replace(pgd=objective.vary(attack.pgd))

    @step(REPLICATED, SHARDED, SHARDED, SHARDED, REPLICATED, out=REPLICATED)
    def observe(weights: Weights, images, labels, ids, key):
        images = to_float(images)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
        logits_fn = prepared_logits_fn(model, weights, images, train=False)
        num_classes = jax.eval_shape(logits_fn, images).shape[-1]
        knobs = knobs_lib.neutral(num_classes)
        attacked = objective.perturb and objective.perturb(
            attack_on(attack, logits_fn, images, labels, keys, jnp.ones(len(labels)), knobs), logits_fn, images
        )
        natural_logits = logits_fn(images)
        output = objective.loss(
            lambda batch_stats, images: (logits_fn(images), batch_stats),
            weights.batch_stats,
            images,
            attacked,
            labels,
            knobs,
        )
        correct_steps = attacked.correct_steps if attacked else None
        seen = Seen(labels, output.logits, output.unweighted, natural_logits, correct_steps)
        return lax.psum(class_statistics.of_batch(observed, seen), AXIS)

    return observe


def over_resident(train_step: Callable, image_shape: tuple[int, int, int]) -> Step:
    """The step that makes several updates in one program, with the training set on the device.

    Returns:
        train_steps(state, rows [N, H * W * C], labels [N], indices [S, B], key) -> (state, losses [S]): the training
        set is replicated and has one image per row, because a TPU would copy an array [N, H, W, C] to a padded layout
        to select images from it. The indices are this device's share of S batches.
        The state is donated.
    """

    @step(REPLICATED, REPLICATED, REPLICATED, SHARDED_STEPS, REPLICATED, out=REPLICATED, donate=(0,))
    def train_steps(state: TrainState, rows, labels, indices, key):
        def update(state, index):
            return train_step(state, rows[index].reshape(-1, *image_shape), labels[index], key)

        return lax.scan(update, state, indices)

    return train_steps


def example_keys(step_key, batch_size: int):
    """Two keys [B] per example of this device's share of the batch, by its position in the global batch."""
    positions = lax.axis_index(AXIS) * batch_size + jnp.arange(batch_size)
    keys = jax.vmap(lambda position: jax.random.split(jax.random.fold_in(step_key, position)))(positions)
    return keys[:, 0], keys[:, 1]


def dropout_key(step_key):
    """The key for what a model draws on this device; its masks are for all images together, so they are of a device."""
    return jax.random.fold_in(jax.random.fold_in(step_key, _DROPOUT), lax.axis_index(AXIS))
