"""Checks of a config, by the table of fields and beyond it: errors name the field, its value and the remedy."""

import math

from jaxrobust import config as config_lib, data, files, models, objectives, remedies
from jaxrobust.attacks import suites, threats
from jaxrobust.config import objects
from jaxrobust.config.fields import FIELDS, MILESTONES
from jaxrobust.data import augment
from jaxrobust.errors import FieldError, listed
from jaxrobust.remedies.rule import first_epoch

# An Linf radius below this many 255ths is nearly always a fraction of [0, 1] in the wrong field (8/255 = 0.031).
SMALLEST_EPS_255 = 0.1
# Smallest plausible L2 and L1 radii. A smaller one is usually an Linf radius that was kept when the norm was changed.
SMALLEST_EPS_255_OF = {"l2": 12.0, "l1": 120.0}
MOST_PIXELS = 10**10  # of a split that is drawn
USUAL_EPS_255_OF = {"l2": "128 (0.5)", "l1": "3060 (12)"}


def validate(config, device_count: int, *, training: bool = True) -> None:
    """Check every field that can be checked before data are loaded: each by itself, then those that depend on others.

    Args:
        device_count: number of devices among which batches are divided.
        training: whether the run will be trained; an evaluation may omit the attack that selects the best checkpoint.

    Raises:
        FieldError: names the first field that is wrong, its value and the remedy.
    """
    values = check_fields(config)
    _validate_data(config.data)
    fields = config.model
    own = models.options_of(fields.name, fields)
    models.check(fields.name, dtype=fields.dtype, head=fields.head, head_scale=fields.head_scale, **own)
    _validate_threat(config)
    for section in ("attack", "eval"):
        _validate_step_size(config, section)
    _validate_objective(config)
    _validate_optimizer(config.optimizer)
    _validate_remedy(config, training)
    for section in ("train", "eval"):
        size = config[section].batch_size
        if size % device_count:
            problem = f"does not divide among the {device_count} devices"
            raise FieldError(f"{section}.batch_size", size, problem, f"use a multiple of {device_count}")
    attacks = tuple(config.eval.attacks)
    for name in attacks:
        suites.parse(name, config.threat.norm)
    if twice := [name for name in attacks if attacks.count(name) > 1]:
        raise FieldError("eval.attacks", attacks, f"names {twice[0]} twice", "name each once")
    for name in ("audit.attack", "audit.matrix_attack", "posthoc.attack"):
        if not suites.parse(values[name], config.threat.norm, name).members:
            remedy = "name an attack or a suite of attacks/suites.py"
            raise FieldError(name, values[name], "is not an attack", remedy)
    _validate_checkpoints(config, training)
    if training and config.posthoc.remedy != "none":
        remedy = f"train with none, then run jaxrobust posthoc --remedy {config.posthoc.remedy}"
        raise FieldError("posthoc.remedy", config.posthoc.remedy, "is for a trained run", remedy)


def check_fields(config) -> dict:
    """Check every field by itself. Returns their values by dotted name."""
    values = files.flatten(config.to_dict())
    for field in FIELDS.values():
        field.check(values[field.name])
    return values


def _validate_data(fields) -> None:
    data.check_streaming(fields.name, fields.streaming)
    augment.check_streaming(tuple(fields.augment), fields.streaming, tuple(fields.crop_scale))
    mixture = fields.gaussians
    for name in ("train_examples", "test_examples") if fields.name == "gaussians" else ():
        if mixture[name] * mixture.dimension > MOST_PIXELS:
            problem = f"makes more than {MOST_PIXELS:,} pixels of dimension {mixture.dimension:,}"
            raise FieldError(f"data.gaussians.{name}", mixture[name], problem, "draw fewer")


def _validate_optimizer(fields) -> None:
    if fields.nesterov and fields.momentum == 0:
        raise FieldError("optimizer.nesterov", True, "needs momentum", "set optimizer.momentum above 0")
    milestones = tuple(fields.milestones)
    if list(milestones) != sorted(set(milestones)):
        raise FieldError("optimizer.milestones", milestones, "is not increasing", f"give {MILESTONES.text}")
    if fields.schedule == "piecewise" and any(m < fields.warmup for m in milestones):
        problem = f"ends after the first of milestones {milestones}"
        raise FieldError("optimizer.warmup", fields.warmup, problem, "lower it")


def _validate_checkpoints(config, training: bool) -> None:
    if training and config.eval.checkpoints != "all":
        problem = "is not known before the training ends"
        raise FieldError("eval.checkpoints", config.eval.checkpoints, problem, "use it with jaxrobust evaluate")
    if config.eval.every_epochs % config.checkpoint.every_epochs:
        problem = f"is not a multiple of checkpoint.every_epochs = {config.checkpoint.every_epochs}"
        remedy = "use a multiple, since only checkpoints are evaluated"
        raise FieldError("eval.every_epochs", config.eval.every_epochs, problem, remedy)
    best = config_lib.best_attack(config)
    if training and best not in config.eval.attacks:
        raise FieldError("checkpoint.best_attack", best, "is not one of eval.attacks", listed(config.eval.attacks))


def _validate_threat(config) -> None:
    threat = config.threat
    name = "eps_255" if threat.eps is None else "eps"
    norm, radius, problem = threat.norm.upper(), threat[name], None
    if name == "eps":
        if norm == "LINF" and radius > 1:
            problem = "is an Linf radius larger than the pixel range [0, 1]"
            remedy = f"in 1/255 it is threat.eps_255 = {radius:g}"
        elif 0 < radius < threats.SMALLEST:
            problem = f"is below {threats.SMALLEST:g}, where float32 pixels hardly change"
            remedy = "give a radius such as 0.03, or 0 for no attack"
    elif norm == "LINF" and radius > 255:
        problem = "is an Linf radius larger than the pixel range, 255/255"
        remedy = "write the radius in 1/255, for example 8"
    elif 0 < radius < SMALLEST_EPS_255_OF.get(threat.norm, 0):
        usual = USUAL_EPS_255_OF[threat.norm]
        problem = f"is very small for an {norm} radius"
        remedy = f"usual is {usual}; if it is intended, give threat.eps in pixel units"
    elif 0 < radius < SMALLEST_EPS_255:
        problem = "looks like a fraction of [0, 1], but the unit is 1/255"
        remedy = f"write {radius * 255:.3g}, or threat.eps = {radius:g} in pixel units"
    elif 0 < config_lib.attack_radius(config, "attack") < threats.SMALLEST:
        problem = f"leaves a radius below {threats.SMALLEST:g} in pixel units, where float32 pixels hardly change"
        raise FieldError("attack.radius", config.attack.radius, problem, "raise it, or set 0 for no attack")
    if problem:
        raise FieldError(f"threat.{name}", radius, problem, remedy)


def _validate_objective(config) -> None:
    fields = config.objective
    if objectives.OBJECTIVES[fields.name].single_step and config.attack.steps != 1:
        problem = f"{fields.name} takes one step"
        raise FieldError("attack.steps", config.attack.steps, problem, "set attack.steps = 1")
    if fields.name == "free" and config.attack.restarts != 1:
        raise FieldError("attack.restarts", config.attack.restarts, "has no meaning for free", "set it to 1")
    if fields.awp_gamma and fields.name == "free":
        problem = "cannot be combined with free, whose gradients update the weights directly"
        raise FieldError("objective.awp_gamma", fields.awp_gamma, problem, "set it to 0")


def _validate_remedy(config, training: bool) -> None:
    remedy = config.remedy
    names, epochs = remedies.parse(remedy.name), config.train.epochs
    if "dafa" in names and epochs < 2:
        problem = "is too short for dafa, which observes the classes in one epoch and acts in later epochs"
        raise FieldError("train.epochs", epochs, problem, "train for 2 epochs or more")
    begins = {"begin": remedy.begin}
    begins |= {f"{name}.begin": remedy[name].begin for name in ("reweight", "resample", "dafa") if name in names}
    for field, begin in begins.items():
        if first_epoch(begin, epochs) >= epochs:
            raise FieldError(f"remedy.{field}", begin, f"is after the last of {epochs} epochs", "lower it")
    if "dafa" in names and first_epoch(remedy.dafa.begin, epochs) == 0:
        problem = "leaves no epoch to observe which classes are confused"
        raise FieldError("remedy.dafa.begin", remedy.dafa.begin, problem, "raise it; the published value is 0.64")
    controller = objects.remedy(config)
    if not training:
        return
    if "robal" in names and config.model.head != "cosine":
        raise FieldError("model.head", config.model.head, "does not fit robal", "set model.head = cosine")
    _validate_observation(config, controller, names)


def _validate_observation(config, remedy, names) -> None:
    """Check that the statistics which a remedy needs will be available."""
    objective, validation = objects.objective(config), config.data.validation_per_class > 0
    from_validation = config.remedy.observe == "validation" and names != ("none",)
    if (from_validation or remedy.average) and not validation:
        wanted = "remedy.observe=validation" if from_validation else "remedy.cfa.average"
        problem = f"leaves no validation split, which {wanted} needs"
        remedy_ = "hold out some images of each class, for example data.validation_per_class = 50"
        raise FieldError("data.validation_per_class", config.data.validation_per_class, problem, remedy_)
    if remedy.average and config.train.average_decay == 0:
        problem = "keeps no averaged weights, which remedy.cfa.average needs"
        raise FieldError("train.average_decay", 0.0, problem, "set it above 0")
    if "natural_correct" in remedy.statistics and not (objective.sees_natural or from_validation):
        problem = f"{config.remedy.name} needs the clean accuracy, which {config.objective.name} does not measure"
        remedy_ = "set remedy.observe = validation with data.validation_per_class, or objective trades"
        raise FieldError("remedy.observe", config.remedy.observe, problem, remedy_)
    attacked = objective.attacks or (from_validation and objective.perturb)
    if not attacked and "steps_withstood" in remedy.statistics:
        problem = f"needs the attack of the training, and {config.objective.name} does not attack before its updates"
        raise FieldError("remedy.name", config.remedy.name, problem, "choose another objective, such as pgd_at")


def _validate_step_size(config, section: str) -> None:
    fields = config[section]
    name = "step_size" if fields.step_size is not None else "step_size_255"
    if fields[name] is None:
        return
    size = config_lib.step_size(config, section)
    # Steps larger than the diameter of the ball always end on its surface, and steps 1/255 of the usual size have no
    # effect: in both cases the value is probably in the wrong unit.
    radius = config_lib.attack_radius(config, section)
    if not radius / 200 <= size <= 2 * (radius or math.inf):
        problem = f"is not a sensible step for the radius {radius * 255:.4g}/255"
        remedy = "use a quarter of the radius, in 1/255 (step_size_255) or in pixel units (step_size)"
        raise FieldError(f"{section}.{name}", fields[name], problem, remedy)


def check_images(config, image_shape: tuple[int, int, int]) -> None:
    """Raises FieldError if the radius is beyond the largest distance of two such images, and so in a wrong unit, or a
    random crop can cut out padding alone.
    """
    norm, largest = config.threat.norm, threats.largest_radius(config.threat.norm, image_shape)
    if config_lib.radius(config) > largest:
        name = "eps" if config.threat.eps is not None else "eps_255"
        problem = f"is an {norm.upper()} radius larger than the largest distance of two images, {largest:.3g}"
        usual = USUAL_EPS_255_OF.get(norm, "8 (0.03)")
        raise FieldError(f"threat.{name}", config.threat[name], problem, f"usual is threat.eps_255 = {usual}")
    if "crop" in config.data.augment and config.data.pad >= min(image_shape[:2]):
        problem = f"is the size of an image of {image_shape[0]} x {image_shape[1]} pixels or more"
        raise FieldError("data.pad", config.data.pad, problem, "pad by an eighth of the size, for example")


def doubts(config) -> list[str]:
    """Sentences about settings that are allowed and hardly ever wanted."""
    found = []
    if config.optimizer.learning_rate == 0:
        found.append("optimizer.learning_rate = 0.0: the weights stay as they are")
    if config.eval.every_epochs > config.train.epochs > 1:
        found.append(f"eval.every_epochs = {config.eval.every_epochs}: only the last epoch is evaluated")
    return found
