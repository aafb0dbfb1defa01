"""Training in one call: `fit`, with plain values in the place of a config."""

import contextlib
import dataclasses
import difflib
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxrobust import config as config_lib
from jaxrobust import console, objectives, remedies
from jaxrobust.attacks.threats import Threat
from jaxrobust.config import objects, validation
from jaxrobust.data import Dataset
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError
from jaxrobust.evaluation.classifier import Classifier
from jaxrobust.evaluation.run import Run
from jaxrobust.models.weights import Weights
from jaxrobust.objectives import Objective
from jaxrobust.training import epochs as epochs_lib
from jaxrobust.training import loop, setup, user_models
from jaxrobust.training.epochs import Diverged
from jaxrobust.training.training import Training

# The config field of each argument.
FIELDS = {
    "model": "model.name",
    "threat": "threat.eps",
    "objective": "objective.name",
    "remedy": "remedy.name",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "seed": "train.seed",
    "average_decay": "train.average_decay",
    "optimizer": "optimizer.name",
    "attack_steps": "attack.steps",
    "attack_restarts": "attack.restarts",
    "attack_batch_norm": "attack.batch_norm",
    "step_size": "attack.step_size",
    "random_start": "attack.random_start",
    "radius_warmup": "attack.radius_warmup",
    "observe": "remedy.observe",
    "remedy_begin": "remedy.begin",
    "counts": "remedy.counts",
    "counts_decay": "remedy.counts_decay",
    "dtype": "model.dtype",
    "batch_norm": "model.batch_norm",
    "augment": "data.augment",
    "pad": "data.pad",
    "attacks": "eval.attacks",
    "eval_batch_size": "eval.batch_size",
    "eval_every_epochs": "eval.every_epochs",
    "checkpoint_every_epochs": "checkpoint.every_epochs",
    **{
        name: f"optimizer.{name}"
        for name in (
            "learning_rate", "momentum", "nesterov", "weight_decay", "schedule", "milestones", "decay_factor", "warmup",
            "clip_norm",
        )
    },
    **{
        name: f"objective.{name}"
        for name in ("label_smoothing", "beta", "climb", "noise", "replays", "variance", "awp_gamma", "awp_begin")
    },
}  # fmt: skip


def fit(
    model: Any,
    dataset: Dataset | tuple,
    threat: Threat,
    *,
    objective: str | Objective = "pgd_at",
    remedy: Any = "none",
    epochs: int = 30,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    optimizer: str | optax.GradientTransformation = "sgd",
    attack_steps: int = 10,
    seed: int = 0,
    loss: Callable | None = None,
    model_options: dict | None = None,
    remedy_options: dict | None = None,
    workdir: str | pathlib.Path | None = None,
    progress: bool = False,
    log: Callable[[dict], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a model so that it is robust, class by class.

    Args:
        model: the name of one of the package's, with its `model_options`; a Linen module whose call takes `train`; or
            an NNX module, which is trained from its own parameters and stays as it is. It maps images [B, H, W, C] in
            [0, 1] to logits [B, C]; a model of one's own normalises the images itself.
        dataset: a data set, or (images [N, H, W, C], labels [N]) to train on, uint8 or float in [0, 1].
        threat: what an attacker may do, for example `Linf(8 / 255)`.
        objective: one of objectives.NAMES, such as "pgd_at" or "trades"; or an Objective of one's own.
        remedy: one of remedies.NAMES or several joined by +, such as "cfa", with `remedy_options`; or an object with
            init(class_counts) -> (knobs, state) and update(statistics, state) -> (knobs, state), called after each
            epoch, see remedies.knobs and training/class_statistics.py.
        batch_size: over all devices, a multiple of their number.
        learning_rate: at its peak.
        optimizer: "sgd" or "adamw"; or an optax transformation, which has its own learning rate.
        attack_steps: of each attack in training, of a quarter of the radius each; see `step_size`.
        loss: (logits [B, C], labels [B]) -> [B] in the place of the cross-entropy, of training and attack.
        workdir: where checkpoints, results and TensorBoard go, as with the command; a training that is there is
            continued. Without it nothing is written, and nothing evaluated.
        progress: whether to print.
        log: called with a dict after each epoch: its loss, accuracy and accuracy of each class.
        settings: any of beta, label_smoothing, replays, climb, noise, variance, awp_gamma, awp_begin (objective);
            step_size in pixel units, attack_restarts, attack_batch_norm, random_start, radius_warmup (attack);
            schedule, milestones, decay_factor, warmup, momentum, nesterov, weight_decay, clip_norm (optimizer);
            observe, remedy_begin, counts, counts_decay (remedy); average_decay, augment, pad, dtype, batch_norm
            (training); attacks, eval_batch_size, eval_every_epochs, checkpoint_every_epochs (of a workdir). Defaults
            are those of the config fields of these names.

    Returns:
        The trained model as a Run: averaged weights where an average is kept (average_decay = 0: none), else the last.

    Raises:
        FieldError: names the argument that is wrong, its value and what to do.
        Diverged: the loss, a weight or a logit is no longer a finite number.
        Interrupted: with a workdir, by Ctrl-C or SIGTERM, after saving. The same call continues.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxrobust.attacks.threats import Linf
        >>> from jaxrobust.data import load
        >>> class Model(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.hidden, self.head = nnx.Linear(64, 32, rngs=rngs), nnx.Linear(32, 10, rngs=rngs)
        ...     def __call__(self, images):
        ...         return self.head(nnx.relu(self.hidden(images.reshape(len(images), -1))))
        >>> digits = load("digits")
        >>> run = fit(Model(nnx.Rngs(0)), digits, Linf(0.1), epochs=2, attack_steps=2, augment=(), batch_size=32)
        >>> run.logits_fn(digits.test.images[:3]).shape
        (3, 10)
    """
    given = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "attack_steps": attack_steps,
        "seed": seed, **settings,
    }  # fmt: skip
    if not isinstance(threat, Threat):
        raise FieldError("threat", threat, "is no threat", "give one, for example Linf(8/255)")
    if loss is not None and isinstance(objective, Objective):
        problem = "is not used beside an objective of one's own"
        raise FieldError("loss", loss, problem, "let the objective use it, or name one of the package's")
    if not isinstance(dataset, Dataset):
        dataset = Dataset.from_arrays(dataset)
    threat.check(dataset.image_shape)
    own_model = None if isinstance(model, str) else user_models.adapted(model)
    for name, value in {"model": model, "objective": objective, "remedy": remedy, "optimizer": optimizer}.items():
        if isinstance(value, str):
            given[name] = value
    with _arguments_named():
        config = _config(given, threat, dataset, model_options or {}, remedy_options or {})
        mesh = parallel.make_mesh()
        validation.validate(config, mesh.size)
        config.data.name = dataset.name
        training = setup.create(config, dataset, mesh)
        training = _with_own(training, config, own_model, objective, remedy, optimizer, loss)
        if own_model is not None:
            config.model.name = type(model).__name__
        try:
            state = _in_workdir(training, config, workdir, progress) if workdir else _in_memory(training, progress, log)
        except Diverged as error:
            raise Diverged(f"{error}: lower learning_rate, or set clip_norm") from error
    return Run(
        training.model,
        Weights(**jax.device_get(vars(state.averaged or state.weights))),
        dataset,
        threat,
        verified=training.verified,
        relative_step=config_lib.relative_step(config),
        batch_size=config.eval.batch_size,
        seed=config.eval.seed,
    )


def _config(given: dict, threat: Threat, dataset: Dataset, model_options: dict, remedy_options: dict):
    """The default config with the arguments put in.

    Raises:
        FieldError: there is no such argument, or its value is of a wrong type.
    """
    config = config_lib.default()
    config.update_from_flattened_dict({"threat.norm": threat.norm, "threat.eps": float(threat.eps)})
    fields = {}
    for name, value in given.items():
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, 1)
            raise FieldError(
                name, value, "is no argument of fit", f"did you mean {near[0]}?" if near else "see its help"
            )
        fields[FIELDS[name]] = value
    fields |= {f"model.{name}": value for name, value in model_options.items()}
    for name, value in remedy_options.items():
        fields[f"remedy.{name}" if "." in name else f"remedy.{given.get('remedy')}.{name}"] = value
    for field, value in fields.items():
        value = tuple(value) if isinstance(value, list) else value
        try:
            config.update_from_flattened_dict({field: value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise FieldError(field, value, "does not exist or is of another type", "correct it") from error
    if len(dataset.validation):
        config.data.validation_per_class = int(dataset.validation.counts(dataset.num_classes).min())
    # What a workdir is evaluated on, of the splits that the data have.
    config.eval.splits = tuple(name for name in ("validation", "test") if len(getattr(dataset, name))) or ("test",)
    return config


def _with_own(training: Training, config, model, objective, remedy, optimizer, loss) -> Training:
    """The training with objects of the user's own in the place of those of the config."""
    own = {} if model is None else {"model": model, "verified": model}
    if isinstance(objective, Objective):
        own["objective"] = objective
    elif loss is not None:
        settings = {name: config.objective[name] for name in objectives.Settings._fields}
        own["objective"] = objectives.create(objective, objectives.Settings(**settings), loss)
    if not isinstance(remedy, str):
        statistics = tuple(getattr(remedy, "statistics", ()))
        own["remedy"] = remedies.Remedy(remedy.init, remedy.update, statistics, uses_statistics=True)
        own["observe"] = config.remedy.observe
    elif isinstance(objective, Objective):
        own["remedy"] = objects.remedy(config, objective)
    if not isinstance(optimizer, str):
        own["optimizer"] = optimizer
    return dataclasses.replace(training, **own)


def _in_memory(training: Training, progress: bool, log):
    """Train without files; the last state."""
    state, bar = training.initial_state(), console.progress if progress else _silent
    for epoch in epochs_lib.prepare(training)(state, progress=bar):
        if log:
            log(epoch.record)
        if epoch.warning:
            console.warn(epoch.warning)
        state = epoch.state
    if not epochs_lib.is_finite(state.weights):
        raise Diverged(f"the weights are no longer finite numbers after step {training.total_steps}")
    return state


def _in_workdir(training: Training, config, workdir, progress: bool):
    """Train in a workdir, or continue there; the last state."""
    classifier = Classifier.of_model(
        training.model,
        training.data.num_classes,
        verified=training.verified,
        mesh=training.mesh,
        batch_size=config.eval.batch_size,
        seed=config.eval.seed,
    )
    with _quiet(not progress), loop.training_in(workdir, config):
        return loop.run(training, config, pathlib.Path(workdir), classifier)


@contextlib.contextmanager
def _silent(*_):
    yield lambda amount: None


@contextlib.contextmanager
def _quiet(quiet: bool):
    """Let nothing but warnings be printed meanwhile."""
    before = console.speaks()
    console.speak(before and not quiet)
    try:
        yield
    finally:
        console.speak(before)


@contextlib.contextmanager
def _arguments_named():
    """Let errors name the arguments of `fit` instead of config fields."""
    try:
        yield
    except FieldError as error:
        message = str(error)
        names = {field: name for name, field in FIELDS.items()} | {
            "data.validation_per_class": "validation_per_class of the dataset",
            "data.name": "dataset",
            "threat.norm": "threat",
        }
        for field, name in names.items():
            message = re.sub(rf"(--config\.)?\b{re.escape(field)}\b", name, message)
        message = re.sub(r"\b(--config\.)?model\.(\w+)", r"\2 of model_options", message)
        message = re.sub(r"\b(--config\.)?remedy\.(\w+\.\w+)", r"\2 of remedy_options", message)
        field, _, rest = message.partition(" = ")
        renamed = FieldError(field, "", "", "")
        renamed.args = (f"{field} = {rest}",)
        raise renamed from None
