"""From config sections to the objects they describe."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import config as config_lib
from jaxrobust import (
    console,
    data,
    models,
    objectives,
    observation,
    optimizers,
    overfitting,
    parallel,
    remedies,
    steps,
    train_state,
)
from jaxrobust import train_steps as train_steps_lib
from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Pgd, PgdAttack
from jaxrobust.data import randomness
from jaxrobust.data.augment import augment
from jaxrobust.remedies.rule import first_epoch


def dataset(config) -> data.DataSet:
    """Load the data."""
    return data.load(
        config.data.name,
        data_dir=config.data.data_dir,
        validation_per_class=config.data.validation_per_class,
        seed=config.data.seed,
        gaussians=_gaussians(config),
        streaming=config.data.streaming,
        image_size=config.data.image_size,
        imbalance_profile=config.data.imbalance,
        imbalance_ratio=config.data.imbalance_ratio,
        drop=config.data.drop,
        merge=config.data.merge,
        shares=config.data.shares,
        progress=console.progress,
    )


def description(config, images=None, num_classes: int | None = None) -> data.Description:
    """The data set's shape, classes and size without its data; `images` and `num_classes` as in `data.describe`.

    Where classes are regrouped or thinned, what is left is known from the data alone.
    """
    if (config.data.drop or config.data.merge or config.data.shares) and images is None and num_classes is None:
        return data.described(dataset(config))
    return data.describe(
        config.data.name,
        data_dir=config.data.data_dir,
        validation_per_class=config.data.validation_per_class,
        seed=config.data.seed,
        gaussians=_gaussians(config),
        streaming=config.data.streaming,
        image_size=config.data.image_size,
        imbalance_profile=config.data.imbalance,
        imbalance_ratio=config.data.imbalance_ratio,
        progress=console.progress,
        images=images,
        num_classes=num_classes,
    )


def _gaussians(config) -> data.Gaussians | None:
    return data.Gaussians(**config.data.gaussians.to_dict()) if config.data.name == "gaussians" else None


def model(config, num_classes: int, mesh, dtype: str | None = None):
    """The model, in `model.dtype` or the given one."""
    fields = config.model
    return models.create(
        fields.name,
        num_classes=num_classes,
        dtype=dtype or fields.dtype,
        batch_norm_axis=parallel.AXIS if fields.batch_norm == "synchronised" else None,
        mean=tuple(fields.mean),
        std=tuple(fields.std),
        depth=fields.depth,
        width=fields.width,
        hidden=tuple(fields.hidden),
        final_batch_norm=fields.final_batch_norm,
        shortcut=fields.shortcut,
        stem=fields.stem,
        head=fields.head,
        head_scale=fields.head_scale,
        canonical_gradients=parallel.on_cpu(mesh),
    )


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
    total_steps *= updates_per_batch(config)
    return optimizers.create(
        fields.name,
        schedule(config, total_steps),
        momentum=fields.momentum,
        nesterov=fields.nesterov,
        weight_decay=fields.weight_decay,
        clip_norm=fields.clip_norm,
    )


def objective(config) -> objectives.Objective:
    """The loss of the training, and how it attacks."""
    fields = config.objective
    return objectives.create(
        fields.name, objectives.Settings(**{name: fields[name] for name in objectives.Settings._fields})
    )


def updates_per_batch(config) -> int:
    """How many updates a batch serves."""
    return objective(config).replays or 1


def remedy(config) -> remedies.Remedy:
    """The controller of the class knobs."""
    fields, training_objective = config.remedy, objective(config)
    run = remedies.Run(
        num_epochs=config.train.epochs,
        first_epoch=first_epoch(fields.begin, config.train.epochs),
        knobs=training_objective.knobs,
        beta=training_objective.beta,
        head_scale=config.model.head_scale if config.model.head == "cosine" else 1.0,
    )
    settings = remedies.Settings(
        counts=fields.counts,
        counts_decay=fields.counts_decay,
        by_remedy={name: fields[name].to_dict() for name in remedies.NAMES if name in fields},
    )
    return remedies.create(fields.name, settings, run)


def initial_state(config, dataset: data.DataSet, mesh, total_steps: int) -> train_state.TrainState:
    """The state before the first step, on every device of the mesh."""

    def initial_state(key):
        counts = dataset.train.counts(dataset.num_classes)
        return _create_state(config, counts, dataset.image_shape, mesh, total_steps, key)

    # As one program, which is compiled faster than its hundreds of operations, and once for all seeds.
    state = jax.jit(initial_state)(randomness.key(config.train.seed, randomness.Purpose.INITIAL_WEIGHTS))
    return parallel.replicate(state, mesh)


def abstract_state(config, data: data.DataSet | data.Description, mesh, total_steps: int) -> train_state.TrainState:
    """The shapes, types and devices of the training state."""
    counts = np.ones(data.num_classes, np.int64)
    create = partial(_create_state, config, counts, data.image_shape, mesh, total_steps)
    return parallel.abstract(jax.eval_shape(create, jax.random.key(0)), mesh)


def _create_state(config, class_counts, image_shape, mesh, total_steps: int, key) -> train_state.TrainState:
    return train_state.create(
        model(config, len(class_counts), mesh),
        optimizer(config, total_steps),
        remedy(config),
        class_counts,
        image_shape,
        key,
        averaged=config.train.average_decay > 0,
        observed=_observed_in_training(config),
    )


def train_steps(config, data: data.DataSet | data.Description, mesh, total_steps: int, step=None):
    """The compiled updates, the training set on the devices; see train_steps.over_resident. The state is donated.

    Args:
        step: that trains on one batch, if not that of the config's training.
    """
    whole, batches = parallel.REPLICATED, parallel.SHARDED_STEPS
    step = step or _train_step(config, data.num_classes, mesh, total_steps)
    return parallel.spmd(
        train_steps_lib.over_resident(step, data.image_shape),
        mesh,
        in_specs=(whole, whole, whole, batches, whole),
        out_specs=(whole, whole),
        donate=(0,),
    )


def streamed_train_step(config, num_classes: int, mesh, total_steps: int, step=None):
    """The compiled update by a batch that the host brings; see train_steps.make_train_step. The state is donated.

    Args:
        step: as of `train_steps`.
    """
    whole, share = parallel.REPLICATED, parallel.SHARDED
    return parallel.spmd(
        step or _train_step(config, num_classes, mesh, total_steps),
        mesh,
        in_specs=(whole, share, share, whole),
        out_specs=(whole, whole),
        donate=(0,),
    )


def steps_per_dispatch(config, mesh) -> int:
    """Updates in one program: as configured, else 1 on a CPU, whose steps are long, and 10 elsewhere."""
    return config.train.steps_per_dispatch or (1 if parallel.on_cpu(mesh) else 10)


def _train_step(config, num_classes: int, mesh, total_steps: int):
    fields, controller, epochs = config.objective, remedy(config), config.train.epochs
    weight_perturbation = train_steps_lib.WeightPerturbation(
        gamma=fields.awp_gamma, first_step=round(fields.awp_begin * total_steps)
    )
    return train_steps_lib.make_train_step(
        model(config, num_classes, mesh),
        objective(config),
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
    return train_steps_lib.make_train_step(
        frozen_model, objective(config), optimizer, attack, augment=_augmentation(config), average_decay=None
    )


def _augmentation(config):
    return partial(augment, operations=tuple(config.data.augment), pad=config.data.pad, pad_mode=config.data.pad_mode)


def _train_attack(config, total_steps: int) -> train_steps_lib.TrainAttack:
    fields = config.attack
    return train_steps_lib.TrainAttack(
        pgd=Pgd(
            norm=threats.NORMS[config.threat.norm],
            steps=fields.steps,
            restarts=fields.restarts,
            random_start=fields.random_start,
            keep_worst=fields.restarts > 1,
        ),
        radius=config_lib.attack_radius(config, "attack"),
        step_size=config_lib.step_size(config, "attack"),
        batch_norm=fields.batch_norm,
        warmup_steps=round(fields.radius_warmup * total_steps),
    )


def _observed_in_training(config) -> tuple[str, ...]:
    """The statistics that the remedy wants of the training batches."""
    return remedy(config).statistics if config.remedy.observe == "training" else ()


def looks_at_validation(config) -> bool:
    """Whether the remedy looks at the validation split at the end of each epoch."""
    return config.remedy.name != "none" and (config.remedy.observe == "validation" or bool(remedy(config).average))


def observer(config, dataset: data.DataSet, mesh) -> observation.Observer:
    """What gathers the statistics of the validation split that remedies look at."""
    step = train_steps_lib.make_observe_step(
        model(config, dataset.num_classes, mesh), objective(config), _train_attack(config, 0), remedy(config).statistics
    )
    whole, share = parallel.REPLICATED, parallel.SHARDED
    return observation.Observer(
        parallel.spmd(step, mesh, in_specs=(whole, share, share, share, whole), out_specs=whole),
        dataset.validation,
        dataset.num_classes,
        batch_size=config.eval.batch_size,
        seed=config.train.seed,
        mesh=mesh,
    )


def judge_step(config, num_classes: int, mesh):
    """The compiled verdict on images: (weights, images, adversarial, radius) -> see steps.make_judge_step."""
    whole, share = parallel.REPLICATED, parallel.SHARDED
    return parallel.spmd(
        _judge_step(config, num_classes, mesh), mesh, in_specs=(whole, share, share, share), out_specs=_VERDICT
    )


def ranking_step(config, num_classes: int, mesh, count: int):
    """The compiled ranking of classes: (weights, images) -> see steps.make_ranking_step."""
    step = steps.make_ranking_step(model(config, num_classes, mesh, dtype="float32"), count)
    in_specs = (parallel.REPLICATED, parallel.SHARDED)
    out_specs = {"ranking": parallel.SHARDED, "finite": parallel.REPLICATED}
    return parallel.spmd(step, mesh, in_specs=in_specs, out_specs=out_specs)


def features_step(config, num_classes: int, mesh):
    """The compiled look at what the head sees: (weights, images) -> (features [B, D], logits [B, C]), float32."""
    step = steps.make_features_step(model(config, num_classes, mesh, dtype="float32"))
    return parallel.spmd(step, mesh, in_specs=(parallel.REPLICATED, parallel.SHARDED), out_specs=parallel.SHARDED)


def probe_step(config, num_classes: int, mesh):
    """The compiled look for signs of gradient masking: (weights, images, labels) -> see steps.make_probe_step."""
    whole, share = parallel.REPLICATED, parallel.SHARDED
    step = steps.make_probe_step(model(config, num_classes, mesh))
    return parallel.spmd(step, mesh, in_specs=(whole, share, share), out_specs=share)


def landscape_step(config, num_classes: int, mesh):
    """The compiled look around images: (weights, images, labels, ids) -> see steps.make_landscape_step."""
    judge = model(config, num_classes, mesh, dtype="float32")
    step = steps.make_landscape_step(judge, config.threat.norm, config_lib.radius(config))
    whole, share = parallel.REPLICATED, parallel.SHARDED
    return parallel.spmd(step, mesh, in_specs=(whole, share, share, share), out_specs=share)


def attack(config, num_classes: int, spec, towards: bool = False):
    """An attack of an evaluation, as its name in `eval.attacks` says; towards a class it is one on two classes."""
    return spec.build(config.threat.norm, 2 if towards else num_classes, config_lib.relative_step(config))


def attack_steps(config, num_classes: int, mesh, spec, length: int, towards: bool = False):
    """The compiled parts of an attack, `begin` and `go_on`; see steps.make_attack_steps. The state is donated."""
    begin, go_on = steps.make_attack_steps(
        model(config, num_classes, mesh),
        _judge_step(config, num_classes, mesh),
        attack(config, num_classes, spec, towards),
        length,
        towards=towards,
    )
    whole, share = parallel.REPLICATED, parallel.SHARDED
    victims = (whole, share, share, share, share, whole, whole)
    out_specs = (share, _VERDICT | {"idle": share})
    return (
        parallel.spmd(begin, mesh, in_specs=victims, out_specs=out_specs),
        parallel.spmd(go_on, mesh, in_specs=(*victims, whole, share), out_specs=out_specs, donate=(8,)),
    )


def overfitting_check(config, dataset: data.DataSet, mesh) -> overfitting.Check | None:
    """The check for catastrophic overfitting; None unless the config trains against a single step, and wants it."""
    fields, radius = config.attack, config_lib.attack_radius(config, "attack")
    if not config.train.overfitting_check or config.objective.name == "standard" or fields.steps > 1 or radius == 0:
        return None
    attack = partial(PgdAttack, norm=threats.NORMS[config.threat.norm], loss=losses.cross_entropy)
    step_size = config_lib.step_size(config, "attack")
    step = steps.make_withstood_step(
        model(config, dataset.num_classes, mesh),
        _judge_step(config, dataset.num_classes, mesh),
        (
            attack(iterations=1, random_start=fields.random_start, relative_step=step_size / radius),
            attack(iterations=overfitting.STEPS),
        ),
    )
    whole, share = parallel.REPLICATED, parallel.SHARDED
    return overfitting.Check(
        parallel.spmd(step, mesh, in_specs=(whole, share, share, share, share, whole), out_specs=whole),
        dataset.train,
        dataset.num_classes,
        radius=radius,
        batch_size=config.eval.batch_size,
        seed=config.train.seed,
        mesh=mesh,
    )


_VERDICT = {"prediction": parallel.SHARDED, "excess": parallel.REPLICATED, "finite": parallel.REPLICATED}


def _judge_step(config, num_classes: int, mesh):
    judge = model(config, num_classes, mesh, dtype="float32")
    return steps.make_judge_step(judge, threats.NORMS[config.threat.norm])
