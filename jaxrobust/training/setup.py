"""From a config to a training."""

import dataclasses
from functools import partial

from jaxrobust import config as config_lib, remedies
from jaxrobust.attacks import threats
from jaxrobust.attacks.pgd import Pgd
from jaxrobust.config import objects
from jaxrobust.data import Dataset, Description, batches
from jaxrobust.data.augment import augment
from jaxrobust.distributed import parallel
from jaxrobust.remedies.rule import first_epoch
from jaxrobust.training import optimizers
from jaxrobust.training.step import TrainAttack, WeightPerturbation
from jaxrobust.training.training import Training


def create(config, data: Dataset | Description, mesh, total_steps: int | None = None) -> Training:
    """The training of a config on a data set, or of its description for what is only compiled; `total_steps` are of all
    epochs, if not as many as the data give.
    """
    epochs, batch_size, of = config.train.epochs, config.train.batch_size, config.objective
    if total_steps is None:
        total_steps = batches.steps_per_epoch(len(data.train), batch_size) * epochs
    schedule = _schedule(config, total_steps)
    model = partial(objects.model, config, data.num_classes, mesh)
    operations = tuple(config.data.augment)
    return Training(
        model=model(),
        verified=model(dtype="float32"),
        data=data,
        mesh=mesh,
        objective=objects.objective(config),
        attack=_attack(config, total_steps),
        remedy=objects.remedy(config),
        observe=config.remedy.observe if config.remedy.name != "none" else "training",
        optimizer=_optimizer(config, total_steps),
        schedule=schedule,
        augment=partial(augment, operations=operations, pad=config.data.pad, pad_mode=config.data.pad_mode),
        decode={"operations": operations, "crop_scale": tuple(config.data.crop_scale)},
        epochs=epochs,
        batch_size=batch_size,
        total_steps=total_steps,
        seed=config.train.seed,
        average_decay=config.train.average_decay,
        in_batch_from=first_epoch(config.remedy.begin, epochs) * (total_steps // epochs),
        weight_perturbation=WeightPerturbation(of.awp_gamma, round(of.awp_begin * total_steps))
        if of.awp_gamma
        else None,
        # 1 on a CPU, whose steps are long.
        steps_per_dispatch=config.train.steps_per_dispatch or (1 if parallel.on_cpu(mesh) else 10),
        eval_batch_size=config.eval.batch_size,
        check_overfitting=config.train.overfitting_check,
    )


def head_training(config, data: Dataset, mesh, frozen_model, optimizer, total_steps: int) -> Training:
    """The training of the head of a model after its training, see posthoc/training.py: as that was, by its attack and
    augmentation, but on adversarial images alone wherever it attacked, without its remedies, and of `frozen_model`.
    """
    training = create(config, data, mesh, total_steps)
    attacks = config.objective.name != "standard"
    return dataclasses.replace(
        training,
        model=frozen_model,
        optimizer=optimizer,
        objective=objects.objective(config, "pgd_at") if attacks else training.objective,
        attack=training.attack._replace(batch_norm="eval", warmup_steps=0),
        remedy=remedies.none(),
        observe="training",
        weight_perturbation=None,
    )


def _schedule(config, total_steps: int):
    fields = config.optimizer
    return optimizers.schedule(
        fields.schedule,
        learning_rate=fields.learning_rate,
        total_steps=total_steps,
        milestones=tuple(fields.milestones),
        decay_factor=fields.decay_factor,
        warmup=fields.warmup,
    )


def _optimizer(config, total_steps: int):
    """The optimizer with its schedule, which counts updates: `total_steps` is of batches."""
    fields, updates_per_batch = config.optimizer, objects.objective(config).replays or 1
    return optimizers.create(
        fields.name,
        _schedule(config, total_steps * updates_per_batch),
        momentum=fields.momentum,
        nesterov=fields.nesterov,
        weight_decay=fields.weight_decay,
        clip_norm=fields.clip_norm,
    )


def _attack(config, total_steps: int) -> TrainAttack:
    fields = config.attack
    return TrainAttack(
        pgd=Pgd(
            norm=threats.NORMS[config.threat.norm],
            steps=fields.steps,
            restarts=fields.restarts,
            start=threats.random_start if fields.random_start else threats.at_image,
            keep_worst=fields.restarts > 1,
        ),
        radius=config_lib.attack_radius(config, "attack"),
        step_size=config_lib.step_size(config, "attack"),
        batch_norm=config_lib.attack_batch_norm(config.objective.name, fields.batch_norm),
        warmup_steps=round(fields.radius_warmup * total_steps),
    )
