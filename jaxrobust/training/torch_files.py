"""Weights from PyTorch as a run, and those of a run for PyTorch; without PyTorch, see models.torch_weights."""

import contextlib
import hashlib
import pathlib

import jax
import numpy as np

from jaxrobust import config as config_lib
from jaxrobust import console, files
from jaxrobust import data as data_lib
from jaxrobust.config import objects, validation
from jaxrobust.data import batches
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import loading
from jaxrobust.models import torch_weights
from jaxrobust.models.weights import Weights
from jaxrobust.runs import checkpoints as checkpoints_lib
from jaxrobust.runs import results
from jaxrobust.training import setup as training_setup

# Fields that determine the variables of a model, or its computation.
_OPTIONS = ("depth", "width", "hidden", "final_batch_norm", "shortcut", "stem")
_SAME = 1e-4  # normalisations are published with four decimals
_CHECKED = 8  # number of images for which the logits are checked to be finite


def import_torch(path, config, workdir) -> None:
    """Make `workdir` a run of a config whose single checkpoint, the last one, has the weights of a file.

    The stored config has no averaged weights. It has no validation split either: it is unknown which images the weights
    were trained on, so no image can be treated as held out. `weights.json` records the source of the weights.

    Raises:
        UserError: the config, the file or the workdir is wrong, or the weights do not fit the config's model and data;
            the workdir is not changed.
    """
    path, workdir = pathlib.Path(path), pathlib.Path(workdir)
    if (workdir / "config.json").exists() or (workdir / checkpoints_lib.FOLDER).exists():
        raise UserError(f"workdir = {str(workdir)!r}: holds a run already; give another --workdir")
    config = config_lib.from_dict(config_lib.to_dict(config))
    config.train.average_decay = 0.0
    config.data.validation_per_class = 0
    mesh = parallel.make_mesh()
    validation.validate(config, mesh.size, training=False)
    _check_head(config.model)

    description = objects.description(config)
    validation.check_radius(config, description.image_shape)
    arrays = torch_weights.load(path)
    normalisation = torch_weights.normalisation(config.model.name, arrays)
    _check_normalisation(config.model, normalisation)
    variables = torch_weights.to_variables(
        config.model.name, arrays, description.image_shape, **{name: config.model[name] for name in _OPTIONS}
    )
    num_classes = variables["params"]["head"]["bias"].size
    if num_classes != description.num_classes:
        problem = f"has {description.num_classes} classes, and {path.name} {num_classes} logits"
        raise FieldError("data.name", config.data.name, problem, "give the weights' own data set")

    # A state as training creates it, except for the weights. Images are not needed, and may not be available.
    stand_in = data_lib.random_dataset(description, largest_bytes=1)
    steps_per_epoch = batches.steps_per_epoch(description.train_examples, config.train.batch_size)
    step = steps_per_epoch * config.train.epochs
    state = training_setup.create(config, stand_in, mesh, step).initial_state()
    weights = Weights(variables["params"], variables.get("batch_stats", {}))
    state = state.replace(step=np.int32(step), weights=weights)
    _check_finite(objects.model(config, num_classes, mesh, dtype="float32"), variables, stand_in.train, path)

    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FieldError("--workdir", str(workdir), f"cannot be made ({error.strerror})", "give another") from error
    with contextlib.closing(checkpoints_lib.Checkpoints(workdir)) as checkpoints:
        checkpoints.save(step, state)
    origin = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    files.write_atomically(workdir / results.ORIGIN, files.to_json(origin))
    # Written last, because a folder with config.json counts as a run.
    files.write_atomically(workdir / "config.json", files.to_json(config_lib.to_dict(config)))
    console.say(f"{path.name}: {len(jax.tree.leaves(variables))} arrays, now a run in {workdir}")
    if not normalisation:
        mean, std = tuple(config.model.mean), tuple(config.model.std)
        console.say(f"the file contains no normalisation, so the config's is used: mean {mean}, std {std}")
    console.say(f"to evaluate it: jaxrobust evaluate --workdir {workdir}")


def export_torch(
    path,
    workdir,
    overrides: dict | None = None,
    *,
    step: int | None = None,
    weights: str | None = None,
    names: str | None = None,
) -> None:
    """Write weights of a run to a .safetensors or .npz file, under PyTorch's names and in PyTorch's layouts.

    Args:
        overrides: new values for fields of the run's config, by dotted name; only `data.data_dir` may change.
        step: step of the checkpoint; None: the best by validation score, or the last if none was selected.
        weights: "raw" or "averaged"; None: those of the best checkpoint, else averaged if the run has them.
        names: naming scheme, of `torch_names.SCHEMES`; None: torchvision for ResNets with its stem, else the first.

    Raises:
        UserError: the run, the checkpoint, the weights, the naming scheme or the file format does not exist, or the
            file cannot be written.
    """
    path, workdir = pathlib.Path(path), pathlib.Path(workdir)
    run = loading.open_run(workdir, overrides)
    if not path.parent.is_dir():
        raise FieldError("--export", str(path), "its folder does not exist", "create it first")
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
        raise FieldError("--export", str(path), f"cannot be written ({error.strerror})", remedy) from error
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
            remedy = f'give "--config.model.{field}={exact}"'
            raise FieldError(f"model.{field}", given, "differs from the file of weights", remedy)


def _check_finite(model, variables, split, path) -> None:
    images = np.asarray(split.images[:_CHECKED])
    images = np.float32(images / 255) if images.dtype == np.uint8 else images
    logits = jax.jit(lambda variables, images: model.apply(variables, images, train=False))(variables, images)
    if not np.isfinite(logits).all():
        raise FieldError("model.weights", path.name, "gives logits that are not finite", "correct the weights")
