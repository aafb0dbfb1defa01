"""Checks of a config: each error names the field, its value and the remedy."""

import math

from jaxrobust import config as config_lib
from jaxrobust import data, files, models, objectives, remedies
from jaxrobust.attacks import suites, threats
from jaxrobust.config import objects
from jaxrobust.data import augment, imbalance
from jaxrobust.errors import FieldError
from jaxrobust.remedies import difficulty, long_tail
from jaxrobust.remedies.rule import first_epoch
from jaxrobust.training import optimizers

# An Linf radius below this many 255ths is nearly always a fraction of [0, 1] in the wrong field (8/255 = 0.031).
SMALLEST_EPS_255 = 0.1
# Smallest plausible L2 and L1 radii. A smaller one is usually an Linf radius that was kept when the norm was changed.
SMALLEST_EPS_255_OF = {"l2": 12.0, "l1": 120.0}
# Settings of remedies that are at least 0 and below 1; all other numbers are at least 0.
_REMEDY_FRACTIONS = (
    *(
        "begin",
        "reweight.begin",
        "resample.begin",
        "dafa.begin",
        "counts_decay",
        "reweight.beta",
        "frl.limit",
        "cfol.gamma",
    ),
    *("cfa.average_begin", "cfa.average_threshold", "cfa.average_decay", "spectral.weight"),
)
USUAL_EPS_255_OF = {"l2": "128 (0.5)", "l1": "3060 (12)"}


def validate(config, device_count: int, *, training: bool = True) -> None:
    """Check every field that can be checked before data are loaded.

    Args:
        device_count: number of devices among which batches are divided.
        training: whether the run will be trained; an evaluation may omit the attack that selects the best checkpoint.

    Raises:
        FieldError: names the first field that is wrong, its value and the remedy.
    """
    data.check_streaming(config.data.name, config.data.streaming, config.data.image_size)
    for section in ("data", "train", "eval"):
        _in_range(f"{section}.seed", config[section].seed, 0, 2**32)
    _at_least("data.validation_per_class", config.data.validation_per_class, 0)
    imbalance.check_arguments(config.data.imbalance, config.data.imbalance_ratio)
    augment.check_arguments(tuple(config.data.augment), config.data.pad, config.data.pad_mode)
    _all("data.crop_scale", config.data.crop_scale, lambda share: 0 < share <= 1, "two rising numbers in (0, 1]")
    augment.check_streaming(tuple(config.data.augment), config.data.streaming, tuple(config.data.crop_scale))

    fields = config.model
    choices = {name: fields[name] for name in ("dtype", "depth", "stem", "shortcut", "head", "head_scale")}
    models.check(fields.name, **choices)
    _one_of("model.batch_norm", config.model.batch_norm, ("local", "synchronised"))
    _all("model.mean", config.model.mean, math.isfinite, "finite numbers, one value or one per channel")
    _all("model.std", config.model.std, lambda s: 0 < s < math.inf, "positive numbers, one value or one per channel")
    _all("model.hidden", config.model.hidden, lambda n: n >= 1, "at least one number of units, each 1 or more")
    _at_least("model.width", config.model.width, 0)

    _validate_threat(config.threat)
    _at_least("attack.steps", config.attack.steps, 1)
    _at_least("attack.restarts", config.attack.restarts, 1)
    _at_least("attack.radius", config.attack.radius, 0)
    _one_of("attack.batch_norm", config.attack.batch_norm, ("train", "eval"))
    for section in ("attack", "eval"):
        _validate_step_size(config, section)

    _validate_objective(config)

    _one_of("optimizer.name", config.optimizer.name, optimizers.NAMES)
    _one_of("optimizer.schedule", config.optimizer.schedule, optimizers.SCHEDULES)
    _at_least("optimizer.learning_rate", config.optimizer.learning_rate, 0)
    _at_least("optimizer.decay_factor", config.optimizer.decay_factor, 0)
    _at_least("optimizer.weight_decay", config.optimizer.weight_decay, 0)
    _at_least("optimizer.clip_norm", config.optimizer.clip_norm, 0)
    _in_range("optimizer.momentum", config.optimizer.momentum, 0, 1)
    _in_range("optimizer.warmup", config.optimizer.warmup, 0, 1)
    if config.optimizer.nesterov and config.optimizer.momentum == 0:
        raise FieldError("optimizer.nesterov", True, "needs momentum", "set optimizer.momentum above 0")
    milestones = tuple(config.optimizer.milestones)
    rising = "increasing fractions of the training, for example (0.5, 0.75)"
    _all("optimizer.milestones", milestones, lambda m: 0 < m < 1, rising)
    if list(milestones) != sorted(set(milestones)):
        raise FieldError("optimizer.milestones", milestones, "is not increasing", f"give {rising}")
    if config.optimizer.schedule == "piecewise" and any(m < config.optimizer.warmup for m in milestones):
        raise FieldError(
            "optimizer.warmup", config.optimizer.warmup, f"ends after the first of milestones {milestones}", "lower it"
        )

    _at_least("train.epochs", config.train.epochs, 1)
    _validate_remedy(config, training)
    _at_least("train.log_every_steps", config.train.log_every_steps, 1)
    _at_least("train.steps_per_dispatch", config.train.steps_per_dispatch, 0)
    _in_range("train.average_decay", config.train.average_decay, 0, 1)
    for section in ("train", "eval"):
        size = config[section].batch_size
        _at_least(f"{section}.batch_size", size, 1)
        if size % device_count:
            raise FieldError(
                f"{section}.batch_size",
                size,
                f"does not divide among the {device_count} devices",
                f"use a multiple of {device_count}",
            )

    if not config.eval.attacks:
        raise FieldError("eval.attacks", (), "is empty", "name at least one, for example ('clean', 'pgd20')")
    for name in config.eval.attacks:
        suites.parse(str(name), config.threat.norm)
    _one_of("eval.checkpoints", config.eval.checkpoints, ("all", "best", "last"))
    if training and config.eval.checkpoints != "all":
        raise FieldError(
            "eval.checkpoints",
            config.eval.checkpoints,
            "is not known before the training ends",
            "use it with --mode evaluate",
        )
    if not config.eval.splits:
        raise FieldError("eval.splits", (), "is empty", "name validation, test, or both")
    for split in config.eval.splits:
        _one_of("eval.splits", split, ("validation", "test"))
    _at_least("eval.every_epochs", config.eval.every_epochs, 0)
    _at_least("eval.examples", config.eval.examples, 0)

    _validate_audit(config.audit, config.threat.norm)

    _validate_posthoc(config.posthoc, config.threat.norm, training)

    _at_least("checkpoint.every_epochs", config.checkpoint.every_epochs, 1)
    if config.eval.every_epochs % config.checkpoint.every_epochs:
        raise FieldError(
            "eval.every_epochs",
            config.eval.every_epochs,
            f"is not a multiple of checkpoint.every_epochs = {config.checkpoint.every_epochs}",
            "use a multiple, since only checkpoints are evaluated",
        )
    _at_least("checkpoint.keep", config.checkpoint.keep, 0)
    _one_of("checkpoint.best", config.checkpoint.best, ("average", "worst", "sum"))
    if training:
        _one_of("checkpoint.best_attack", config_lib.best_attack(config), config.eval.attacks)


def _validate_threat(threat) -> None:
    _one_of("threat.norm", threat.norm, threats.NAMES)
    if threat.eps is not None:
        _at_least("threat.eps", threat.eps, 0)
        if threat.norm == "linf" and threat.eps > 1:
            raise FieldError(
                "threat.eps",
                threat.eps,
                "is an Linf radius larger than the pixel range [0, 1]",
                f"in 1/255 it is --config.threat.eps_255={threat.eps:g}",
            )
        return
    _at_least("threat.eps_255", threat.eps_255, 0)
    if threat.norm == "linf" and threat.eps_255 > 255:
        raise FieldError(
            "threat.eps_255",
            threat.eps_255,
            "is an Linf radius larger than the pixel range, 255/255",
            "write the radius in 1/255, for example 8",
        )
    if 0 < threat.eps_255 < SMALLEST_EPS_255_OF.get(threat.norm, 0):
        raise FieldError(
            "threat.eps_255",
            threat.eps_255,
            f"is very small for an {threat.norm.upper()} radius",
            f"usual is {USUAL_EPS_255_OF[threat.norm]}; if it is intended, give --config.threat.eps in pixel units",
        )
    if 0 < threat.eps_255 < SMALLEST_EPS_255:
        raise FieldError(
            "threat.eps_255",
            threat.eps_255,
            "looks like a fraction of [0, 1], but the unit is 1/255",
            f"write {threat.eps_255 * 255:.3g}, or --config.threat.eps={threat.eps_255:g} in pixel units",
        )


def _validate_objective(config) -> None:
    fields = config.objective
    _one_of("objective.name", fields.name, objectives.NAMES)
    for name in ("label_smoothing", "awp_begin"):
        _in_range(f"objective.{name}", fields[name], 0, 1)
    for name in ("beta", "noise", "variance", "awp_gamma"):
        _at_least(f"objective.{name}", fields[name], 0)
    _at_least("objective.replays", fields.replays, 1)
    _one_of("objective.climb", fields.climb, objectives.CLIMBS)
    if fields.name in objectives.SINGLE_STEPS and config.attack.steps != 1:
        problem = f"{fields.name} takes one step"
        raise FieldError("attack.steps", config.attack.steps, problem, "set --config.attack.steps=1")
    if fields.name == "free" and config.attack.restarts != 1:
        raise FieldError("attack.restarts", config.attack.restarts, "has no meaning for free", "set it to 1")
    if fields.awp_gamma and fields.name == "free":
        problem = "cannot be combined with free, whose gradients update the weights directly"
        raise FieldError("objective.awp_gamma", fields.awp_gamma, problem, "set it to 0")
    _in_range("attack.radius_warmup", config.attack.radius_warmup, 0, 1)


def _validate_remedy(config, training: bool) -> None:
    remedy = config.remedy
    names, epochs = remedies.parse(remedy.name), config.train.epochs
    _one_of("remedy.observe", remedy.observe, ("training", "validation"))
    _one_of("remedy.counts", remedy.counts, remedies.COUNTS)
    _one_of("remedy.reweight.weighting", remedy.reweight.weighting, long_tail.WEIGHTINGS)
    _one_of("remedy.resample.sampling", remedy.resample.sampling, long_tail.SAMPLINGS)
    _one_of("remedy.frl.variant", remedy.frl.variant, difficulty.FRL_VARIANTS)
    for name in _REMEDY_FRACTIONS:
        _in_range(f"remedy.{name}", files.flatten(remedy.to_dict())[name], 0, 1)
    for name, value in files.flatten(remedy.to_dict()).items():
        if isinstance(value, float) and name not in _REMEDY_FRACTIONS:
            _at_least(f"remedy.{name}", value, 0)
    for name in ("cfa", "fair_tat"):
        base = remedy[name].radius_base
        if base > 2:
            problem = "is in units of the threat's radius, and would more than double the radius"
            raise FieldError(f"remedy.{name}.radius_base", base, problem, "use a share such as 0.5")
    if remedy.robust_lt.strength > 1:
        raise FieldError("remedy.robust_lt.strength", remedy.robust_lt.strength, "is above 1", "use 0 to 1")
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
        raise FieldError("model.head", config.model.head, "does not fit robal", "set --config.model.head=cosine")
    _validate_observation(config, controller, names)


def _validate_observation(config, remedy, names) -> None:
    """Check that the statistics which a remedy needs will be available."""
    objective, validation = objects.objective(config), config.data.validation_per_class > 0
    from_validation = config.remedy.observe == "validation" and names != ("none",)
    if (from_validation or remedy.average) and not validation:
        wanted = "remedy.observe=validation" if from_validation else "remedy.cfa.average"
        problem = f"leaves no validation split, which {wanted} needs"
        remedy_ = "hold out some images of each class, for example --config.data.validation_per_class=50"
        raise FieldError("data.validation_per_class", config.data.validation_per_class, problem, remedy_)
    if remedy.average and config.train.average_decay == 0:
        problem = "keeps no averaged weights, which remedy.cfa.average needs"
        raise FieldError("train.average_decay", 0.0, problem, "set it above 0")
    if "natural_correct" in remedy.statistics and not (objective.sees_natural or from_validation):
        problem = f"{config.remedy.name} needs the clean accuracy, which {config.objective.name} does not measure"
        remedy_ = "set --config.remedy.observe=validation with --config.data.validation_per_class, or objective trades"
        raise FieldError("remedy.observe", config.remedy.observe, problem, remedy_)
    attacked = objective.attacks or (from_validation and objective.perturb)
    if not attacked and "steps_withstood" in remedy.statistics:
        problem = f"needs the attack of the training, and {config.objective.name} does not attack before its updates"
        raise FieldError("remedy.name", config.remedy.name, problem, "choose another objective, such as pgd_at")


def _validate_audit(audit, norm: str) -> None:
    for name in ("attack", "matrix_attack"):
        if not suites.parse(audit[name], norm, f"audit.{name}").members:
            raise FieldError(
                f"audit.{name}", audit[name], "is not an attack", "name an attack or a suite of attacks/suites.py"
            )
    for name in ("radii", "radii_255"):
        if audit[name] or name == "radii":
            _all(f"audit.{name}", audit[name], lambda r: 0 < r < math.inf, "positive numbers")
    for name in ("targets", "examples"):
        _at_least(f"audit.{name}", audit[name], 0)


def _validate_posthoc(posthoc, norm: str, training: bool) -> None:
    if training and posthoc.remedy != "none":
        remedy = f"train with none, then run python -m jaxrobust posthoc --remedy {posthoc.remedy}"
        raise FieldError("posthoc.remedy", posthoc.remedy, "is for a trained run", remedy)
    if posthoc.tau is not None:
        _at_least("posthoc.tau", posthoc.tau, 0)
    _one_of("posthoc.prior", posthoc.prior, ("counts", "robust_accuracy", "predicted"))
    _one_of("posthoc.features", posthoc.features, ("raw", "l2n"))
    if not suites.parse(posthoc.attack, norm, "posthoc.attack").members:
        raise FieldError(
            "posthoc.attack", posthoc.attack, "is not an attack", "name an attack or a suite of attacks/suites.py"
        )
    for name in ("bias_size", "learning_rate", "weight_decay"):
        _at_least(f"posthoc.{name}", posthoc[name], 0)
    for name in ("bias_steps", "epochs"):
        _at_least(f"posthoc.{name}", posthoc[name], 1)
    _in_range("posthoc.momentum", posthoc.momentum, 0, 1)


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
        raise FieldError(
            f"{section}.{name}",
            fields[name],
            f"is not a sensible step for the radius {radius * 255:.4g}/255",
            "use a quarter of the radius, in 1/255 (step_size_255) or in pixel units (step_size)",
        )


def check_radius(config, image_shape: tuple[int, int, int]) -> None:
    """Check against the shape of the images: an L2 radius beyond the diagonal of the pixel cube is in a wrong unit.

    Raises:
        FieldError: names the field, its value and the remedy.
    """
    diagonal = math.sqrt(math.prod(image_shape))
    if config.threat.norm == "l2" and config_lib.radius(config) > diagonal:
        name = "eps" if config.threat.eps is not None else "eps_255"
        raise FieldError(
            f"threat.{name}",
            config.threat[name],
            f"is an L2 radius larger than the largest distance of two images, {diagonal:.3g} in pixel units",
            "the usual one is threat.eps_255 = 128, which is 0.5",
        )


def _all(field, values, holds, what) -> None:
    if not len(values) or not all(isinstance(value, int | float) and holds(value) for value in values):
        raise FieldError(field, tuple(values), "is not valid", f"give {what}")


def _one_of(field, value, choices) -> None:
    if value not in choices:
        raise FieldError(field, value, "is unknown", f"choose one of {', '.join(choices)}")


def _at_least(field, value, least) -> None:
    if not (math.isfinite(value) and value >= least):
        raise FieldError(field, value, f"must be {least} or more", "correct the value")


def _in_range(field, value, low, high) -> None:
    if not low <= value < high:
        raise FieldError(field, value, f"must be at least {low} and below {high}", "correct the value")
