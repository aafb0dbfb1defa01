"""Training in one call: `fit`, with plain values in the place of a config."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxrobust import console, remedies
from jaxrobust.attacks.threats import Threat
from jaxrobust.config import objects, validation
from jaxrobust.data import Dataset
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError
from jaxrobust.evaluation.attack_runner import SILENT
from jaxrobust.evaluation.run import Run
from jaxrobust.models import own as own_models
from jaxrobust.models.weights import Weights
from jaxrobust.objectives import Objective
from jaxrobust.training import arguments, epochs as epochs_lib, loop, setup
from jaxrobust.training.epochs import Diverged
from jaxrobust.training.training import Training


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
            [0, 1] to logits [B, C]; a model of one's own normalises the images itself. In training it may use dropout,
            whose masks are a function of the seed, the step and the device, the same for all passes of a step.
        dataset: a data set, or (images [N, H, W, C], labels [N]) to train on, uint8 or float in [0, 1].
        threat: what an attacker may do, for example `Linf(8 / 255)`.
        objective: one of objectives.NAMES, such as "pgd_at" or "trades"; or an Objective of one's own, which
            objectives/objective.py describes.
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
        settings: any of objectives.SETTINGS, such as beta or label_smoothing, awp_gamma, awp_begin (objective);
            step_size in pixel units, attack_restarts, attack_batch_norm, random_start, radius_warmup (attack);
            schedule, milestones, decay_factor, warmup, momentum, nesterov, weight_decay, clip_norm (optimizer);
            observe, remedy_begin, counts, counts_decay (remedy); average_decay, augment, pad, dtype, batch_norm
            (training); attacks, eval_batch_size, eval_every_epochs, checkpoint_every_epochs (of a workdir). The
            command `jaxrobust fields` says what they mean, and their defaults.

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
    if loss is not None and isinstance(objective, Objective):
        problem = "is not used beside an objective of one's own"
        raise FieldError("loss", loss, problem, "let the objective use it, or name one of the package's")
    if not isinstance(dataset, Dataset):
        dataset = Dataset.from_arrays(dataset)
    for name, value in {"model": model, "objective": objective, "remedy": remedy, "optimizer": optimizer}.items():
        if isinstance(value, str):
            given[name] = value
        elif name in ("remedy", "optimizer") and not (hasattr(value, "init") and hasattr(value, "update")):
            raise FieldError(name, value, "is no name, and has no init and update", "give a name, or such an object")
        elif name == "objective" and not isinstance(value, Objective):
            raise FieldError(name, value, "is no name and no Objective", "give one")
    with arguments.named():
        config = arguments.config_of(given, threat, dataset, model_options, remedy_options)
        own_model = (
            None if isinstance(model, str) else own_models.adapted(model, dataset.image_shape, dataset.num_classes)
        )
        mesh = parallel.make_mesh()
        validation.validate(config, mesh.size)
        validation.check_images(config, dataset.image_shape)
        config.data.name = dataset.name
        training = setup.create(config, dataset, mesh)
        training = _with_own(training, config, own_model, objective, remedy, optimizer, loss)
        if own_model is not None:
            config.model.name = type(model).__name__
        try:
            state = (
                _in_workdir(training, config, workdir, progress)
                if workdir is not None
                else _in_memory(training, progress, log)
            )
        except Diverged as error:
            raise Diverged(f"{error}: lower learning_rate, or set clip_norm") from error
    weights = Weights(**jax.device_get(vars(state.averaged or state.weights)))
    return Run.of_config(config, dataset, weights, own_model)


def _with_own(training: Training, config, model, objective, remedy, optimizer, loss) -> Training:
    """The training with objects of the user's own in the place of those of the config."""
    own = {} if model is None else {"model": model, "verified": model}
    if isinstance(objective, Objective):
        own["objective"] = objective
    elif loss is not None:
        own["objective"] = objects.objective(config, objective, loss)
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
    state, bar = training.initial_state(), console.progress if progress else SILENT.progress
    for epoch in epochs_lib.prepare(training)(state, progress=bar):
        if log:
            log(epoch.record)
        if epoch.warning:
            console.warn(arguments.renamed(epoch.warning))
        state = epoch.state
    if not epochs_lib.is_finite(state.weights):
        raise Diverged(f"the weights are no longer finite numbers after step {training.total_steps}")
    return state


def _in_workdir(training: Training, config, workdir, progress: bool):
    """Train in a workdir, or continue there; the last state."""
    with _quiet(not progress), loop.training_in(workdir, config):
        return loop.run(training, config, pathlib.Path(workdir))


@contextlib.contextmanager
def _quiet(quiet: bool):
    """Let nothing but warnings be printed meanwhile."""
    before = console.speaks()
    console.speak(before and not quiet)
    try:
        yield
    finally:
        console.speak(before)
