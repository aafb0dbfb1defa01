"""Weights from PyTorch, to be scored like any checkpoint, and weights of a run for PyTorch.

    python -m jaxrobust.weights --import FILE --config configs/cifar10.py [--workdir DIR] [--config.FIELD=VALUE]
    python -m jaxrobust.weights --export FILE --workdir DIR [--step N] [--weights raw|averaged] [--names SCHEME]

The first makes DIR (default: runs/<name of FILE>) a run that has its only checkpoint at the end; score it with
`python -m jaxrobust.main --mode evaluate --workdir DIR`. FILE is a .safetensors, .npz, .pt or .pth file of a state
dict; nothing in it is executed. What the config says of the model and the data has to hold; what it says of training
does not count.

The second writes a .safetensors or .npz file of the best checkpoint, else the last one.
"""

import contextlib
import hashlib
import pathlib

import jax
import numpy as np
from absl import flags

from jaxrobust import build, command_line, console, files, parallel, results, validation, workdirs
from jaxrobust import checkpoints as checkpoints_lib
from jaxrobust import config as config_lib
from jaxrobust import data as data_lib
from jaxrobust.data import batches
from jaxrobust.errors import FieldError, UserError
from jaxrobust.models import torch_weights
from jaxrobust.train_state import Weights

_IMPORT = flags.DEFINE_string("import", None, "File of weights to make a run of.")
_EXPORT = flags.DEFINE_string("export", None, "File to write weights of a run to: .safetensors or .npz.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run. Default of an import: runs/<name of the file>.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to export. Default: the best, else the last.", 0)
_WEIGHTS = flags.DEFINE_enum("weights", None, ("raw", "averaged"), "Which to export. Default: the best, else averaged.")
_NAMES = flags.DEFINE_string(
    "names", None, "Whose names to export, where there are several: robustbench | torchvision."
)

# Fields that the variables of a model, or what it computes with them, depend on.
_OPTIONS = ("depth", "width", "hidden", "final_batch_norm", "shortcut", "stem")
_SAME = 1e-4  # normalisations are published with four decimals
_CHECKED = 8  # images on which logits have to be finite


def main() -> None:
    """Import or export, as the flags say."""
    if (_IMPORT.value is None) == (_EXPORT.value is None):
        raise UserError("give either --import FILE, with --config, or --export FILE, with --workdir")
    if _IMPORT.value is not None:
        workdir = _WORKDIR.value or pathlib.Path("runs") / pathlib.Path(_IMPORT.value).stem
        _check_shortcut(command_line.config().model, command_line.overrides())
        import_weights(_IMPORT.value, command_line.config(), workdir)
        return
    if _WORKDIR.value is None:
        raise UserError("--workdir is missing; give the folder of the run to export from")
    chosen = {"step": _STEP.value, "weights": _WEIGHTS.value, "names": _NAMES.value}
    export_weights(_EXPORT.value, _WORKDIR.value, command_line.overrides(), **chosen)


def import_weights(path, config, workdir) -> None:
    """Make `workdir` a run of the config whose only checkpoint, its last, has the weights of a file.

    The stored config has no averaged weights, and no validation split: which images the weights were trained on is not
    known, so none can be said to be held out. `weights.json` says where the weights are from.

    Raises:
        UserError: the config, the file or the workdir is wrong, or the file's weights are not those of the config's
            model for the config's data; the workdir is left as it was.
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

    description = build.description(config)
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

    # A state as training makes it, but for the weights. The images do not matter, and may not be there.
    stand_in = data_lib.random_dataset(description, largest_bytes=1)
    steps_per_epoch = batches.steps_per_epoch(description.train_examples, config.train.batch_size)
    step = steps_per_epoch * config.train.epochs
    state = build.initial_state(config, stand_in, mesh, step)
    weights = Weights(variables["params"], variables.get("batch_stats", {}))
    state = state.replace(step=np.int32(step), weights=weights)
    _check_finite(build.model(config, num_classes, mesh, dtype="float32"), variables, stand_in.train, path)

    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FieldError("--workdir", str(workdir), f"cannot be made ({error.strerror})", "give another") from error
    with contextlib.closing(checkpoints_lib.Checkpoints(workdir)) as checkpoints:
        checkpoints.save(step, state)
    origin = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    files.write_atomically(workdir / results.ORIGIN, files.to_json(origin))
    # Last, for where it is there is a run.
    files.write_atomically(workdir / "config.json", files.to_json(config_lib.to_dict(config)))
    console.say(f"{path.name}: {len(jax.tree.leaves(variables))} arrays, now a run in {workdir}")
    if not normalisation:
        mean, std = tuple(config.model.mean), tuple(config.model.std)
        console.say(f"it says nothing of normalisation, so the config's is taken: mean {mean}, std {std}")
    console.say(f"score it: python -m jaxrobust.main --mode evaluate --workdir {workdir}")


def export_weights(
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
        overrides: fields of the run's config to set otherwise, by dotted name; `data.data_dir` alone may differ.
        step: of the checkpoint; None is the best by validation score, or the last where none was chosen.
        weights: "raw" or "averaged"; None is what the best checkpoint has, else averaged where there are any.
        names: whose, of `torch_names.SCHEMES`; None is torchvision for ResNets with its stem, else the first.

    Raises:
        UserError: there is no such run, checkpoint or file format, it has no such weights or names, or the file cannot
            be written.
    """
    path, workdir = pathlib.Path(path), pathlib.Path(workdir)
    stored = files.read_json(workdir / "config.json")
    if stored is None:
        raise UserError(f"workdir = {str(workdir)!r}: holds no run; give the run's --workdir")
    if not path.parent.is_dir():
        raise FieldError("--export", str(path), "there is no such folder", "make it first")
    config = config_lib.from_dict(stored)
    config.update_from_flattened_dict(overrides or {})
    workdirs.check_same_config(workdir, config, stored, may_differ=("data.data_dir",))
    mesh = parallel.make_mesh()
    validation.validate(config, mesh.size, training=False)
    _check_head(config.model)
    description = build.description(config)

    checkpoints = checkpoints_lib.Checkpoints(workdir, read_only=True)
    step, weights = workdirs.choose(workdir, checkpoints.steps(), step, weights)
    state = checkpoints.restore(step, build.abstract_state(config, description, mesh, 1))
    weights, chosen = workdirs.take(state, weights)

    name = config.model.name
    if names is None and config.model.stem == "imagenet" and name.startswith("resnet"):
        names = "torchvision"
    arrays = torch_weights.from_variables(name, jax.device_get(chosen.variables), description.image_shape, names)
    normalisation = {"mean": tuple(config.model.mean), "std": tuple(config.model.std)}
    content = torch_weights.encode(path.suffix, arrays, **normalisation)
    try:
        files.write_atomically(path, content)
    except OSError as error:
        remedy = "name a file in a folder to write to"
        raise FieldError("--export", str(path), f"cannot be written ({error.strerror})", remedy) from error
    console.say(f"{path}: {len(arrays)} arrays, {weights} weights of step {step}")
    console.say(f"pixels in [0, 1] are to be normalised by {normalisation}")


def _check_head(model) -> None:
    """PyTorch's linear layer is a linear head, whatever its weights are called."""
    if model.head != "linear":
        remedy = "a linear head alone can be imported and exported"
        raise FieldError("model.head", model.head, "is no layer of PyTorch's", remedy)


def _check_shortcut(model, overrides: dict) -> None:
    """Two PreAct ResNets are published under the same names and shapes; a person has to say which it is."""
    if model.name == "preact_resnet18" and "model.shortcut" not in overrides:
        raise FieldError(
            "model.shortcut",
            model.shortcut,
            "the file does not tell what its 1x1 shortcuts read",
            "give --config.model.shortcut=activation (Rice et al. 2020; RobustBench's PreActBlockV2) or "
            "--config.model.shortcut=input (Wong et al. 2020; RobustBench's PreActBlock)",
        )


def _check_normalisation(model, found: dict) -> None:
    """The pixels' mean and std that came with the weights are those of the config."""
    for field, values in found.items():
        given = tuple(model[field])
        # One value, here or there, holds for all channels.
        if len({len(given), len(values)} - {1}) > 1 or not np.allclose(given, values, rtol=0, atol=_SAME):
            exact = tuple(round(value, 6) for value in values)
            remedy = f'give "--config.model.{field}={exact}"'
            raise FieldError(f"model.{field}", given, "is not what the weights came with", remedy)


def _check_finite(model, variables, split, path) -> None:
    images = np.asarray(split.images[:_CHECKED])
    images = np.float32(images / 255) if images.dtype == np.uint8 else images
    logits = jax.jit(lambda variables, images: model.apply(variables, images, train=False))(variables, images)
    if not np.isfinite(logits).all():
        raise FieldError("model.weights", path.name, "gives logits that are not finite numbers", "mend the weights")


if __name__ == "__main__":
    command_line.run(main)
