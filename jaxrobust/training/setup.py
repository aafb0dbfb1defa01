"""From config sections to what a training is made of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import config as config_lib
from jaxrobust import data
from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Pgd, PgdAttack
from jaxrobust.config import objects
from jaxrobust.data import randomness
from jaxrobust.data.augment import augment
from jaxrobust.distributed import parallel
from jaxrobust.evaluation import steps
from jaxrobust.remedies.rule import first_epoch
from jaxrobust.training import observation, optimizers, overfitting
from jaxrobust.training import state as state_lib
from jaxrobust.training import step as step_lib


def schedule(config, total_steps: int):
    """The learning rate by step."""
    fields = config.optimizer
    return optimizers.schedule(
        fields.schedule,
        learning_rate=fields.learning_rate,
        total_steps=total_steps,
        milestones=tuple(fields.milestones),
        decay_factor=fields.decay_factor,
        warmup=fields.warmup,
    )


def learning_rates(config, total_steps: int) -> np.ndarray:
    """The learning rate of every step [total_steps], on the host.

    A schedule called in the training loop would be computed on the device, behind the steps that wait there.
    """
    rate = schedule(config, total_steps)
    return np.asarray(jax.vmap(lambda step: jnp.asarray(rate(step)))(jnp.arange(total_steps)))


def optimizer(config, total_steps: int):
    """The optimizer with its schedule, which counts updates: `total_steps` is of batches."""
    fields = config.optimizer
    total_steps *= objects.updates_per_batch(config)
    return optimizers.create(
        fields.name,
        schedule(config, total_steps),
        momentum=fields.momentum,
        nesterov=fields.nesterov,
        weight_decay=fields.weight_decay,
        clip_norm=fields.clip_norm,
    )


def initial_state(config, dataset: data.DataSet, mesh, total_steps: int) -> state_lib.TrainState:
    """The state before the first step, on every device of the mesh."""

    def initial_state(key):
        counts = dataset.train.counts(dataset.num_classes)
        return _create_state(config, counts, dataset.image_shape, mesh, total_steps, key)

    # As one program, which is compiled faster than its hundreds of operations, and once for all seeds.
    state = jax.jit(initial_state)(randomness.key(config.train.seed, randomness.Purpose.INITIAL_WEIGHTS))
    return parallel.replicate(state, mesh)


def abstract_state(config, data: data.DataSet | data.Description, mesh, total_steps: int) -> state_lib.TrainState:
    """The shapes, types and devices of the training state."""
    counts = np.ones(data.num_classes, np.int64)
    create = partial(_create_state, config, counts, data.image_shape, mesh, total_steps)
    return parallel.abstract(jax.eval_shape(create, jax.random.key(0)), mesh)


def _create_state(config, class_counts, image_shape, mesh, total_steps: int, key) -> state_lib.TrainState:
    return state_lib.create(
        objects.model(config, len(class_counts), mesh),
        optimizer(config, total_steps),
        objects.remedy(config),
        class_counts,
        image_shape,
        key,
        averaged=config.train.average_decay > 0,
        observed=_observed_in_training(config),
    )


def train_steps(config, data: data.DataSet | data.Description, mesh, total_steps: int, step=None):
    """The compiled updates, the training set on the devices; see step.over_resident.

    Args:
        step: that trains on one batch, if not that of the config's training.
    """
    step = step or _train_step(config, data.num_classes, mesh, total_steps)
    return parallel.spmd(step_lib.over_resident(step, data.image_shape), mesh)


def streamed_train_step(config, num_classes: int, mesh, total_steps: int, step=None):
    """The compiled update by a batch that the host brings; see step.make_train_step.

    Args:
        step: as of `train_steps`.
    """
    return parallel.spmd(step or _train_step(config, num_classes, mesh, total_steps), mesh)


def steps_per_dispatch(config, mesh) -> int:
    """Updates in one program: as configured, else 1 on a CPU, whose steps are long, and 10 elsewhere."""
    return config.train.steps_per_dispatch or (1 if parallel.on_cpu(mesh) else 10)


def _train_step(config, num_classes: int, mesh, total_steps: int):
    fields, controller, epochs = config.objective, objects.remedy(config), config.train.epochs
    weight_perturbation = step_lib.WeightPerturbation(
        gamma=fields.awp_gamma, first_step=round(fields.awp_begin * total_steps)
    )
    return step_lib.make_train_step(
        objects.model(config, num_classes, mesh),
        objects.objective(config),
        optimizer(config, total_steps),
        _train_attack(config, total_steps),
        augment=_augmentation(config),
        average_decay=None if controller.average else config.train.average_decay,
        in_batch=controller.in_batch,
        in_batch_from=first_epoch(config.remedy.begin, epochs) * (total_steps // epochs),
        observed=_observed_in_training(config),
        weight_perturbation=weight_perturbation if fields.awp_gamma else None,
    )


def head_train_step(config, frozen_model, optimizer, total_steps: int):
    """A step that trains the head of a model after its training, see posthoc/training.py: as that did, by its attack
    and augmentation, but on adversarial images alone wherever it attacked, and without its remedies.

    Args:
        frozen_model: takes the place of the model, and ignores batch statistics.
    """
    config = config.copy_and_resolve_references()
    attack = _train_attack(config, total_steps)._replace(batch_norm="eval", warmup_steps=0)
    if config.objective.name != "standard":
        config.objective.name = "pgd_at"
    return step_lib.make_train_step(
        frozen_model, objects.objective(config), optimizer, attack, augment=_augmentation(config), average_decay=None
    )


def _augmentation(config):
    return partial(augment, operations=tuple(config.data.augment), pad=config.data.pad, pad_mode=config.data.pad_mode)


def _train_attack(config, total_steps: int) -> step_lib.TrainAttack:
    fields = config.attack
    return step_lib.TrainAttack(
        pgd=Pgd(
            norm=threats.NORMS[config.threat.norm],
            steps=fields.steps,
            restarts=fields.restarts,
            start=threats.random_start if fields.random_start else threats.at_image,
            keep_worst=fields.restarts > 1,
        ),
        radius=config_lib.attack_radius(config, "attack"),
        step_size=config_lib.step_size(config, "attack"),
        batch_norm=fields.batch_norm,
        warmup_steps=round(fields.radius_warmup * total_steps),
    )


def _observed_in_training(config) -> tuple[str, ...]:
    """The statistics that the remedy wants of the training batches."""
    return objects.remedy(config).statistics if config.remedy.observe == "training" else ()


def looks_at_validation(config) -> bool:
    """Whether the remedy looks at the validation split at the end of each epoch."""
    return config.remedy.name != "none" and (
        config.remedy.observe == "validation" or bool(objects.remedy(config).average)
    )


def observer(config, dataset: data.DataSet, mesh) -> observation.Observer:
    """What gathers the statistics of the validation split that remedies look at."""
    step = step_lib.make_observe_step(
        objects.model(config, dataset.num_classes, mesh),
        objects.objective(config),
        _train_attack(config, 0),
        objects.remedy(config).statistics,
    )
    return observation.Observer(
        parallel.spmd(step, mesh),
        dataset.validation,
        dataset.num_classes,
        batch_size=config.eval.batch_size,
        seed=config.train.seed,
        mesh=mesh,
    )


def overfitting_check(config, dataset: data.DataSet, mesh) -> overfitting.Check | None:
    """The check for catastrophic overfitting; None unless the config trains against a single step, and wants it."""
    fields, radius = config.attack, config_lib.attack_radius(config, "attack")
    if not config.train.overfitting_check or config.objective.name == "standard" or fields.steps > 1 or radius == 0:
        return None
    attack = partial(PgdAttack, norm=threats.NORMS[config.threat.norm], loss=losses.cross_entropy)
    step_size = config_lib.step_size(config, "attack")
    verified = objects.model(config, dataset.num_classes, mesh, dtype="float32")
    step = steps.make_robust_counts_step(
        steps.prepared_of(objects.model(config, dataset.num_classes, mesh)),
        steps.make_verify_step(steps.forward_of(verified), threats.NORMS[config.threat.norm]),
        (
            attack(iterations=1, random_start=fields.random_start, relative_step=step_size / radius),
            attack(iterations=overfitting.STEPS),
        ),
    )
    return overfitting.Check(
        parallel.spmd(step, mesh),
        dataset.train,
        dataset.num_classes,
        radius=radius,
        batch_size=config.eval.batch_size,
        seed=config.train.seed,
        mesh=mesh,
    )
