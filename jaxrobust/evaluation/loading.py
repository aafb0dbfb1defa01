"""Opens the workdir of a run, during or after its training: config, data, checkpoints and a model with weights."""

import dataclasses
import pathlib
from collections.abc import Collection
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxrobust import config as config_lib, data, files, models
from jaxrobust.config import objects, validation
from jaxrobust.data import batches
from jaxrobust.distributed import hosts, parallel
from jaxrobust.errors import FieldError
from jaxrobust.evaluation.classifier import Classifier
from jaxrobust.models.weights import Weights
from jaxrobust.runs import checkpoints as checkpoints_lib, history, results
from jaxrobust.runs.checkpoints import Chosen


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A run in a workdir: its config with overrides applied, its data, and its checkpoints, to read only."""

    workdir: pathlib.Path
    config: Any
    mesh: Any
    checkpoints: checkpoints_lib.Checkpoints

    @cached_property
    def dataset(self) -> data.Dataset:
        """The data, the same on all processes."""
        dataset = objects.dataset(self.config)
        hosts.check_alike(dataset.fingerprint(), "give all processes the same data")
        return dataset

    @cached_property
    def steps_per_epoch(self) -> int:
        return batches.steps_per_epoch(len(self.dataset.train), self.config.train.batch_size)

    def scored_steps(self) -> list[int]:
        """Steps of the checkpoints that an evaluation scores: not those saved because the run was asked to stop."""
        per_epoch = self.steps_per_epoch
        steps = [step for step in self.checkpoints.steps() if step % per_epoch == 0]
        return [step for step in steps if config_lib.checkpoint_due(self.config, step // per_epoch)]

    def choose(self, step: int | None = None, weights: str | None = None, *, among: list[int] | None = None) -> Chosen:
        """See checkpoints.choose; `among` the given steps, or all."""
        return checkpoints_lib.choose(
            self.workdir,
            self.checkpoints.steps() if among is None else among,
            averaged=self.config.train.average_decay > 0,
            step=step,
            weights=weights,
        )

    def weights(self, chosen: Chosen, described=None, model=None) -> Weights:
        """The weights of a checkpoint, on the devices; of the run's data set and model, if none are given.

        Raises DamagedCheckpoint if they cannot be read, or are not those of the model.
        """
        like = self.abstract_weights(described, model)
        return self.checkpoints.restore_weights(chosen.step, like, chosen.weights)

    def abstract_weights(self, described=None, model=None) -> Weights:
        """The shapes, types and devices of the weights; arguments as of `weights`."""
        described = described or self.dataset
        if model is None:
            return abstract_weights(self.config, described, self.mesh)
        return weights_like(model, described.image_shape, self.mesh)

    def classifier(self) -> Classifier:
        """The model, for any weights of it."""
        return classifier(self.config, self.dataset.num_classes, self.mesh)


def open_run(
    workdir,
    overrides: dict | None = None,
    may_differ: tuple[str, ...] = ("data.data_dir",),
    *,
    stored: dict | None = None,
    field: str | None = None,
    given: Collection[str] = (),
) -> OpenRun:
    """Open a run that is finished or still training, or imported weights. Its data are read when they are needed.

    Args:
        overrides: values of fields by dotted name; only fields in `may_differ` are allowed.
        stored: the run's config.json if not as it is in the file.
        field: the option that names the run, for the message where there is none.
        given: of "model" and "dataset", those that the user brings, as `fit` was given them.

    Raises:
        UserError: there is no run, a field that must not differ is overridden, a value is wrong, or the run is of a
            model or of data that its folder does not describe.
    """
    workdir = files.folder(workdir, field or "workdir")
    stored = stored or _stored_config(workdir, field or "workdir")
    hosts.check_shared(workdir)
    history.clean(workdir)
    config = config_lib.from_dict(stored)
    config_lib.put(config, overrides or {})
    check_same_config(workdir, config, stored, may_differ=may_differ)
    mesh = parallel.make_mesh()
    validation.validate(_with_stand_ins(config, given), mesh.size, training=False)
    return OpenRun(workdir, config, mesh, checkpoints_lib.Checkpoints(workdir, read_only=True))


def _with_stand_ins(config, given: Collection[str]):
    """The config with fields that can be checked, in the place of those of a model and of data that `given` brings."""
    config = config_lib.from_dict(config_lib.to_dict(config))
    for argument, known in (("model", config.model.name in models.NAMES), ("dataset", config.data.name != "arrays")):
        section = config["data" if argument == "dataset" else argument]
        if not known and argument not in given:
            problem = f"the run is of a {argument} of the user's own, which its folder does not hold"
            raise FieldError(argument, section.name, problem, f"jaxrobust.load_run(workdir, {argument}=...) opens it")
        if argument in given:
            default = config_lib.default()["data" if argument == "dataset" else argument]
            section.update(default)
    return config


def _stored_config(workdir: pathlib.Path, field: str) -> dict:
    if (stored := hosts.decide(lambda: history.read_config(workdir))) is None:
        raise FieldError(field, str(workdir), "holds no run", "give the folder of a trained or imported one")
    return stored


def classifier(config, num_classes: int, mesh) -> Classifier:
    """The model of a config: attacks see it in its dtype, and what is reported is that of float32."""
    return Classifier.of_model(
        objects.model(config, num_classes, mesh),
        num_classes,
        verified=objects.model(config, num_classes, mesh, dtype="float32"),
        mesh=mesh,
        batch_size=config.eval.batch_size,
        seed=config.eval.seed,
    )


def abstract_weights(config, described, mesh) -> Weights:
    """The shapes, types and devices of the weights of the config's model, on a data set or its description."""
    return weights_like(objects.model(config, described.num_classes, mesh), described.image_shape, mesh)


def weights_like(model, image_shape: tuple[int, int, int], mesh) -> Weights:
    """The shapes, types and devices of the weights of a Flax model."""
    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    variables = jax.eval_shape(lambda key, image: model.init(key, image, train=False), jax.random.key(0), image)
    return parallel.abstract(Weights(variables["params"], variables.get("batch_stats", {})), mesh)


def load_weights(workdir, config, dataset: data.Dataset, mesh) -> Weights:
    """Weights of another run to start a training from: of its best checkpoint, else the averaged ones of its last.

    Args:
        config, dataset: of the training.

    Raises:
        UserError: there is no such run or checkpoint, its model differs, or it was trained on images of the validation
            split here. For imported weights the latter cannot be checked.
    """
    field = "train.start_from"
    workdir = files.folder(workdir, field)
    other = config_lib.from_dict(_stored_config(workdir, field))
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
                raise FieldError(field, str(workdir), problem, f"set data.{name} = {other.data[name]}")
    run = OpenRun(workdir, other, mesh, checkpoints_lib.Checkpoints(workdir, read_only=True))
    try:
        return run.weights(run.choose(), dataset)
    except checkpoints_lib.DamagedCheckpoint as error:
        problem = f"{error}, as weights of {dataset.num_classes} classes and images {dataset.image_shape}"
        raise FieldError(field, str(workdir), problem, "start from a run on such images") from error


def check_same_config(workdir, config, stored: dict, may_differ: tuple[str, ...]) -> None:
    """Raises FieldError, which names the fields that differ, if the workdir holds a run of another config."""
    # Fields that were added after the run was made get their defaults.
    stored = config_lib.to_dict(config_lib.from_dict(stored))
    differences = config_lib.differences(stored, config_lib.to_dict(config))
    wrong = [f"{name} = {new!r}, there {old!r}" for name, (old, new) in differences.items() if name not in may_differ]
    if wrong:
        problem = f"holds a run of another config ({'; '.join(wrong)})"
        raise FieldError("workdir", str(workdir), problem, "give another one, or the same config")
