"""Opens the workdir of a run, during or after its training: config, data and checkpoints."""

import pathlib
from typing import NamedTuple

from jaxrobust import config as config_lib
from jaxrobust import data
from jaxrobust.config import objects, validation
from jaxrobust.data import batches
from jaxrobust.distributed import hosts, parallel
from jaxrobust.errors import FieldError, UserError
from jaxrobust.models.weights import Weights
from jaxrobust.runs import checkpoints as checkpoints_lib
from jaxrobust.runs import results
from jaxrobust.training import setup as training_setup
from jaxrobust.training.state import TrainState


def path(given: str) -> pathlib.Path:
    """The folder that --workdir names.

    Raises:
        FieldError: it is a URL, or a file.
    """
    if "://" in given:
        remedy = "mount the storage, and give its path"
        raise FieldError("--workdir", given, "is not a folder of a mounted file system", remedy)
    folder = pathlib.Path(given)
    if folder.exists() and not folder.is_dir():
        raise FieldError("--workdir", given, "is not a folder", "give another one")
    return folder


class OpenRun(NamedTuple):
    """A run in a workdir: its config with overrides applied, its data, and its checkpoints, to read only.

    Attributes:
        like: abstract train state, with the shapes and types of the saved ones.
    """

    config: object
    mesh: object
    dataset: data.DataSet
    like: TrainState
    checkpoints: checkpoints_lib.Checkpoints
    steps_per_epoch: int


def open_run(workdir: pathlib.Path, stored: dict, overrides: dict, may_differ: tuple[str, ...]) -> OpenRun:
    """Open a run that is finished or still training.

    Args:
        stored: the run's config.json.
        overrides: values of fields by dotted name; only fields in `may_differ` are allowed.

    Raises:
        UserError: a field that must not differ is overridden, or a value is wrong.
    """
    hosts.check_shared(workdir)
    config = config_lib.from_dict(stored)
    config.update_from_flattened_dict(overrides)
    check_same_config(workdir, config, stored, may_differ=may_differ)
    mesh = parallel.make_mesh()
    validation.validate(config, mesh.size, training=False)
    dataset = objects.dataset(config)
    hosts.check_alike(dataset.fingerprint(), "give all processes the same data")
    steps_per_epoch = batches.steps_per_epoch(len(dataset.train), config.train.batch_size)
    like = training_setup.abstract_state(config, dataset, mesh, steps_per_epoch * config.train.epochs)
    checkpoints = checkpoints_lib.Checkpoints(workdir, read_only=True)
    return OpenRun(config, mesh, dataset, like, checkpoints, steps_per_epoch)


def choose(workdir, steps: list[int], step: int | None, weights: str | None) -> tuple[int, str | None]:
    """Select the checkpoint and the weights that a command uses.

    Args:
        steps: of the available checkpoints.
        step: the requested one; None: the best by validation score, or the last if there is no best one.
        weights: the requested ones, "raw" or "averaged"; None: those of the best checkpoint.

    Returns:
        (step, weights); weights may be None, then `take` chooses.

    Raises:
        UserError: there is no checkpoint, or not the requested one.
    """
    if not steps:
        raise UserError(f"workdir = {str(workdir)!r}: holds no complete checkpoint; train longer, or give another run")
    best = results.BEST.read(workdir) or {}
    if step is None:
        step = best["step"] if best.get("step") in steps else steps[-1]
    if step not in steps:
        raise FieldError("--step", step, "is no checkpoint of the run", f"there are {', '.join(map(str, steps))}")
    if weights is None and best.get("step") == step:
        weights = best["weights"]
    return step, weights


def load_weights(workdir, config, dataset: data.DataSet, mesh) -> Weights:
    """Weights of another run to start a training from: of its best checkpoint, else the averaged ones of its last.

    Args:
        config, dataset: of the training.

    Raises:
        UserError: there is no such run or checkpoint, its model differs, or it was trained on images of the validation
            split here. For imported weights the latter cannot be checked.
    """
    field, workdir = "train.start_from", pathlib.Path(workdir)
    stored = results.CONFIG.read(workdir)
    if stored is None:
        raise FieldError(field, str(workdir), "holds no run", "give the workdir of a trained or imported one")
    other = config_lib.from_dict(stored)
    # Except for fields on which the weights do not depend.
    differ = [
        name
        for name in config_lib.differences(other.model.to_dict(), config.model.to_dict())
        if name not in ("dtype", "batch_norm")
    ]
    if differ:
        problem = f"its model.{differ[0]} is {other.model[differ[0]]!r}, here {config.model[differ[0]]!r}"
        raise FieldError(field, str(workdir), problem, "start from weights of the same model")
    if len(dataset.validation) and (workdir / results.TRAINING).exists():
        for name in ("name", "seed", "validation_per_class", "drop", "merge"):
            if other.data[name] != config.data[name]:
                problem = f"its data.{name} is {other.data[name]!r}, so it has trained on images held out here"
                raise FieldError(field, str(workdir), problem, f"set --config.data.{name}={other.data[name]}")
    checkpoints = checkpoints_lib.Checkpoints(workdir, read_only=True)
    step, weights = choose(workdir, checkpoints.steps(), None, None)
    try:
        state = checkpoints.restore(step, training_setup.abstract_state(other, dataset, mesh, 1))
    except checkpoints_lib.DamagedCheckpoint as error:
        problem = f"{error}, as weights of {dataset.num_classes} classes and images {dataset.image_shape}"
        raise FieldError(field, str(workdir), problem, "start from a run on such images") from error
    return take(state, weights)[1]


def take(state: TrainState, weights: str | None) -> tuple[str, Weights]:
    """(name, weights) of a state.

    Args:
        weights: "raw" or "averaged"; None: averaged if the state has them.

    Raises:
        FieldError: averaged weights are requested and there are none.
    """
    if weights == "averaged" and state.averaged is None:
        raise FieldError("--weights", weights, "the run has none (train.average_decay = 0)", "give raw")
    weights = weights or ("raw" if state.averaged is None else "averaged")
    return weights, state.averaged if weights == "averaged" else state.weights


def check_same_config(workdir, config, stored: dict, may_differ: tuple[str, ...]) -> None:
    """Refuse a workdir that holds a run of another config.

    Raises:
        UserError: names the fields that differ.
    """
    # Fields that were added after the run was made get their defaults.
    stored = config_lib.to_dict(config_lib.from_dict(stored))
    differences = config_lib.differences(stored, config_lib.to_dict(config))
    wrong = [f"{name} = {new!r}, there {old!r}" for name, (old, new) in differences.items() if name not in may_differ]
    if wrong:
        raise UserError(
            f"workdir = {str(workdir)!r}: holds a run of another config ({'; '.join(wrong)}); "
            "give another --workdir, or the same config"
        )
