"""Weights from PyTorch as a run, and those of a run for PyTorch; without PyTorch, see models.torch_weights."""

import hashlib
import pathlib
from typing import Any

import jax
import numpy as np

from jaxrobust import config as config_lib, console, data, files, models
from jaxrobust.attacks.threats import Threat
from jaxrobust.config import objects, validation
from jaxrobust.data import Dataset, Description, batches
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError
from jaxrobust.evaluation import loading
from jaxrobust.evaluation.run import Run
from jaxrobust.models import torch_weights
from jaxrobust.models.weights import Weights
from jaxrobust.runs import checkpoints
from jaxrobust.training import arguments, setup as training_setup

_SAME = 1e-4  # normalisations are published with four decimals
_CHECKED = 8  # number of images for which the logits are checked to be finite


def import_torch(
    path: str | pathlib.Path,
    model: str,
    dataset: Dataset | tuple,
    threat: Threat,
    *,
    model_options: dict | None = None,
    workdir: str | pathlib.Path | None = None,
    **settings: Any,
) -> Run:
    """Weights that were trained with PyTorch, as a run.

    Args:
        path: a .safetensors, .npz, .pt or .pth file with a state dict; no code in it is executed.
        model: the architecture, one of the package's, with its `model_options`, for example
            {"mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)}.
        dataset: a data set, or (images [N, H, W, C], labels [N]).
        threat: the default of the run's attacks, for example `Linf(8 / 255)`.
        workdir: where the run is written, with a single checkpoint, its last; None: nowhere. There it has no validation
            split, since it is unknown which images the weights were trained on.
        settings: dtype, eval_batch_size or attacks, as of `fit`.

    Returns:
        The model with these weights.

    Raises:
        FieldError, UserError: name the argument; the weights do not fit the model and the data, the file cannot be
            read, or the workdir holds a run.

    Example:
        run = jaxrobust.import_torch("resnet18.safetensors", "resnet18", cifar10, jaxrobust.Linf(8 / 255))
        print(run.table("standard"))
    """
    if not isinstance(dataset, Dataset):
        dataset = Dataset.from_arrays(dataset)
    with arguments.named():
        config = arguments.config_of({"model": model} | settings, threat, dataset, model_options)
        config.train.average_decay, config.data.validation_per_class = 0.0, 0
        path = files.path(path, "path")
        if workdir is not None:
            checkpoints.check_free(files.writable(workdir, "workdir"))
        validation.validate(config, parallel.make_mesh().size, training=False)
        config.data.name, description = dataset.name, data.described(dataset)
        weights, _ = _read(path, config, description)
        if workdir is not None:
            _write(workdir, config, description, weights, path)
    return Run.of_config(config, dataset, weights)


def import_run(path, config, workdir) -> None:
    """Make `workdir` a run of a config, without averaged weights and validation split, whose single checkpoint, the
    last one, has the weights of a file. `weights.json` says where they are from. Raises UserError if anything does not
    fit; then the workdir is not changed.
    """
    path = files.path(path, "path")
    checkpoints.check_free(files.writable(workdir, "workdir"))
    config = config_lib.from_dict(config_lib.to_dict(config))
    config.train.average_decay, config.data.validation_per_class = 0.0, 0
    validation.validate(config, parallel.make_mesh().size, training=False)
    description = objects.description(config)
    validation.check_images(config, description.image_shape)
    weights, normalisation = _read(path, config, description)
    _write(workdir, config, description, weights, path)
    console.say(f"{path.name}: {len(jax.tree.leaves(weights))} arrays, now a run in {workdir}")
    if not normalisation:
        mean, std = tuple(config.model.mean), tuple(config.model.std)
        console.say(f"the file contains no normalisation, so the config's is used: mean {mean}, std {std}")
    console.say(f"to evaluate it: jaxrobust evaluate --workdir {workdir}")


def _read(path: pathlib.Path, config, description: Description) -> tuple[Weights, dict]:
    """The weights of the file, which fit the config's model and data; and the pixels' mean and std if it has them."""
    _check_head(config.model)
    name, shape = config.model.name, description.image_shape
    arrays = torch_weights.load(path)
    normalisation = torch_weights.normalisation(name, arrays)
    _check_normalisation(config.model, normalisation)
    variables = torch_weights.to_variables(name, arrays, shape, **models.options_of(name, config.model))
    num_classes = variables["params"]["head"]["bias"].size
    if num_classes != description.num_classes:
        problem = f"has {description.num_classes} classes, and {path.name} {num_classes} logits"
        raise FieldError("data.name", config.data.name, problem, "give the weights' own data set")
    model = objects.model(config, num_classes, parallel.make_mesh(), dtype="float32")
    _check_finite(model, variables, data.random_dataset(description, largest_bytes=1).train, path)
    return Weights(variables["params"], variables.get("batch_stats", {})), normalisation


def _write(workdir, config, description: Description, weights: Weights, path: pathlib.Path) -> None:
    # A state as training creates it, except for the weights. Images are not needed, and may not be available.
    stand_in = data.random_dataset(description, largest_bytes=1)
    step = batches.steps_per_epoch(description.train_examples, config.train.batch_size) * config.train.epochs
    state = training_setup.create(config, stand_in, parallel.make_mesh(), step).initial_state()
    state = state.replace(step=np.int32(step), weights=weights)
    origin = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    checkpoints.write_run(workdir, config_lib.to_dict(config), step, state, origin)


def export_torch(
    path: str | pathlib.Path,
    workdir: str | pathlib.Path,
    *,
    step: int | None = None,
    weights: str | None = None,
    names: str | None = None,
    data_dir: str | None = None,
) -> None:
    """Write weights of a run to a .safetensors or .npz file, under PyTorch's names and in PyTorch's layouts.

    Args:
        step: step of the checkpoint; None: the best by validation score, or the last if none was selected.
        weights: "raw" or "averaged"; None: those of the best checkpoint, else averaged if the run has them.
        names: naming scheme, of `torch_names.schemes`; None: torchvision for ResNets with its stem, else the first.
        data_dir: where the data are, if elsewhere than in the training.

    Raises:
        FieldError, UserError: the run, the checkpoint, the weights, the naming scheme or the file format does not
            exist, or the file cannot be written.
    """
    overrides = {} if data_dir is None else {"data.data_dir": data_dir}
    export_run(path, workdir, overrides, step=step, weights=weights, names=names)


def export_run(path, workdir, overrides: dict, *, step=None, weights=None, names=None) -> None:
    """As `export_torch`, with fields of the run's config by dotted name; only `data.data_dir` may differ."""
    path = files.path(path, "path")
    if path.suffix not in (".safetensors", ".npz"):
        problem, remedy = "weights cannot be written to such a file", "name a .safetensors or an .npz file"
        raise FieldError("path", str(path), problem, remedy)
    run = loading.open_run(workdir, overrides)
    files.writable(path.parent, "path")
    if not path.parent.is_dir():
        raise FieldError("path", str(path), "its folder does not exist", "create it first")
    config = run.config
    _check_head(config.model)
    description = objects.description(config)
    chosen = run.choose(step, weights)
    variables = jax.device_get(run.weights(chosen, description).variables)

    name = config.model.name
    if names is None and config.model.stem == "imagenet" and name.startswith("resnet"):
        names = "torchvision"
    arrays = torch_weights.from_variables(name, variables, description.image_shape, names)
    normalisation = {"mean": tuple(config.model.mean), "std": tuple(config.model.std)}
    content = torch_weights.encode(path.suffix, arrays, **normalisation)
    try:
        files.write_atomically(path, content)
    except OSError as error:
        remedy = "name a file in a writable folder"
        raise FieldError("path", str(path), f"cannot be written ({error.strerror})", remedy) from error
    console.say(f"{path}: {len(arrays)} arrays, {chosen.weights} weights of step {chosen.step}")
    console.say(f"pixels in [0, 1] must be normalised with {normalisation}")


def _check_head(model) -> None:
    """Check that the head is linear, since PyTorch models have a linear layer."""
    if model.head != "linear":
        remedy = "only a linear head can be imported and exported"
        raise FieldError("model.head", model.head, "is not a layer of PyTorch", remedy)


def _check_normalisation(model, found: dict) -> None:
    """Check that the mean and std of the pixels that the file contains are equal to those of the config."""
    for field, values in found.items():
        given = tuple(model[field])
        # A single value on either side applies to all channels.
        if len({len(given), len(values)} - {1}) > 1 or not np.allclose(given, values, rtol=0, atol=_SAME):
            exact = tuple(round(value, 6) for value in values)
            raise FieldError(f"model.{field}", given, "differs from the file of weights", f"set it to {exact}")


def _check_finite(model, variables, split, path) -> None:
    images = np.asarray(split.images[:_CHECKED])
    images = np.float32(images / 255) if images.dtype == np.uint8 else images
    logits = jax.jit(lambda variables, images: model.apply(variables, images, train=False))(variables, images)
    if not np.isfinite(logits).all():
        raise FieldError("path", path.name, "gives logits that are not finite", "correct the weights")
