"""A trained model with its data, as one object: `Run`, and `load_run`, which opens that of a workdir."""

import pathlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import config as config_lib
from jaxrobust.attacks import suites
from jaxrobust.attacks.threats import Threat
from jaxrobust.classwise.table import ClassTable, classwise_table
from jaxrobust.config import objects
from jaxrobust.data.augment import to_float
from jaxrobust.data.dataset import Dataset, Split
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, number, one_of
from jaxrobust.evaluation import loading
from jaxrobust.evaluation.classifier import Classifier
from jaxrobust.evaluation.library import checked_step
from jaxrobust.evaluation.scoring import attack_split
from jaxrobust.evaluation.verdicts import Verdicts
from jaxrobust.models import own as own_models
from jaxrobust.models.weights import Weights
from jaxrobust.runs import checkpoints as checkpoints_lib

SPLITS = ("train", "validation", "test")


class Run:
    """A model with weights, the data it was made for, and the threat it was trained for.

    Args:
        model: a Flax Linen module, `apply(variables, images, train=False)` -> logits [B, C].
        weights: its variables, {"params": ..., "batch_stats": ...}, or Weights.
        dataset: the data.
        threat: the default of `attack`, for example `Linf(8 / 255)`.
        verified: the model in float32, if `model` computes in a lower precision.
        relative_step: step of pgdK and cwK as a share of the radius.
        batch_size: over all devices; rounded up to a multiple of their number.
        seed: of the random starts of attacks.

    Attributes:
        model, weights, dataset, threat: as given; the weights on all devices.
    """

    def __init__(
        self,
        model: Any,
        weights: Weights | dict,
        dataset: Dataset,
        threat: Threat,
        *,
        verified: Any = None,
        relative_step: float = 0.25,
        batch_size: int = 512,
        seed: int = 0,
    ):
        self.mesh = parallel.make_mesh()
        if isinstance(weights, dict):
            weights = Weights(weights["params"], weights.get("batch_stats", {}))
        self.model, self.dataset, self.threat = model, dataset, threat
        self.weights = parallel.replicate(jax.device_get(weights), self.mesh)
        self._relative_step, self._verified = relative_step, verified or model
        self.classifier = Classifier.of_model(
            model,
            dataset.num_classes,
            verified=verified,
            mesh=self.mesh,
            batch_size=-(-batch_size // self.mesh.size) * self.mesh.size,
            seed=seed,
        )

    @classmethod
    def of_config(cls, config: Any, dataset: Dataset, weights: Weights | dict, model: Any = None) -> "Run":
        """What a config describes, by the commands; `model` takes the place of its own."""
        own, mesh = {"model": model, "verified": model}, parallel.make_mesh()
        if model is None:
            own["model"] = objects.model(config, dataset.num_classes, mesh)
            own["verified"] = objects.model(config, dataset.num_classes, mesh, dtype="float32")
        return cls(
            **own,
            weights=weights,
            dataset=dataset,
            threat=objects.threat(config),
            relative_step=config_lib.relative_step(config),
            batch_size=config.eval.batch_size,
            seed=config.eval.seed,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return tuple(self.dataset.class_names)

    @cached_property
    def logits_fn(self) -> Callable[[jax.Array], jax.Array]:
        """images [B, H, W, C], floats in [0, 1] or uint8 -> logits [B, C] of the float32 model."""
        variables = jax.tree.map(jnp.asarray, jax.device_get(self.weights.variables))
        model = self._verified
        compiled = jax.jit(lambda variables, images: model.apply(variables, to_float(images), train=False))
        return lambda images: compiled(variables, jnp.asarray(images))

    def attack(
        self,
        attack: str = "standard",
        split: str = "test",
        *,
        norm: str | None = None,
        eps: float | None = None,
        step_size: float | None = None,
        keep_adversarial: bool = False,
    ) -> Verdicts:
        """Attack the images of a split, as `jaxrobust.attack` does, and as the command `evaluate` with the same result.

        Args:
            attack: see `jaxrobust.attack`.
            split: "test", "validation" or "train".
            norm, eps: of another threat than that of the run.
            step_size: of pgdK and cwK in pixel units; None: the run's own share of the radius.
            keep_adversarial: whether to return the perturbed images.

        Returns:
            Verdicts, one row per image of the split, in its order.

        Raises:
            FieldError, UserError: name the argument.
        """
        images = self.split(split)
        norm = self.threat.norm if norm is None else norm
        if eps is None and norm != self.threat.norm:
            raise FieldError("eps", eps, f"the run's radius is in {self.threat.norm}", "give one in the other norm")
        threat = Threat(norm, self.threat.eps if eps is None else eps)
        threat.check(self.dataset.image_shape)
        suite = suites.parse(attack, norm, "attack")
        relative_step = self._relative_step
        if step_size is not None and threat.eps:
            relative_step = checked_step(step_size, threat) / threat.eps
        known = self.classifier, self.weights, images, suite, threat, relative_step
        return attack_split(*known, class_names=self.class_names, title=split, keep_adversarial=keep_adversarial)

    def table(self, attack: str | Verdicts = "standard", split: str = "test", **settings: Any) -> ClassTable:
        """The accuracy of each class under an attack with its interval, see `jaxrobust.classwise_table`.

        Args:
            attack: its name, or the Verdicts of `attack` on the same split.
            split, settings: as of `attack`.
        """
        verdicts = attack if isinstance(attack, Verdicts) else self.attack(attack, split, **settings)
        return classwise_table(self.split(split).labels, verdicts, self.class_names)

    def split(self, name: str) -> Split:
        """The split of that name, with its `images` and `labels`.

        Raises:
            FieldError: there is none, or it is empty.
        """
        one_of("split", name, SPLITS)
        found = getattr(self.dataset, name)
        if not len(found):
            has = ", ".join(other for other in SPLITS if len(getattr(self.dataset, other)))
            raise FieldError("split", name, "has no images", f"give one of {has}")
        return found

    def __repr__(self) -> str:
        return f"Run({type(self.model).__name__}, {self.dataset.name}, {len(self.class_names)} classes, {self.threat})"


def load_run(
    workdir: str | pathlib.Path,
    step: str | int = "best",
    weights: str | None = None,
    *,
    model: Any = None,
    dataset: Dataset | tuple | None = None,
    data_dir: str | None = None,
) -> Run:
    """Open a checkpoint of a run in a workdir: of a training, or of imported weights.

    Args:
        workdir: the run's folder.
        step: "best" by validation score, or the last where none was chosen; "last"; or the number of a step.
        weights: "raw" or "averaged"; None: those of the best checkpoint if it is that one, else averaged if there are.
        model: the Linen or NNX module, where `fit` trained one of the user's own; its parameters are those stored.
        dataset: the data, where `fit` was given arrays; as of `fit`.
        data_dir: where the data are, if elsewhere than in the training.

    Raises:
        FieldError, UserError: there is no such run, checkpoint or weights, the data cannot be read, the model or the
            data are of the user's own and not given, or the first parameter of the model that differs in name or shape.

    Example:
        run = jaxrobust.load_run("runs/digits")
        verdicts = run.attack("apgd_ce20+square100")
        print(run.table(verdicts))
    """
    if isinstance(step, str):
        one_of("step", step, ("best", "last"))
    else:
        step = number("step", step, 0, 10**12, kind=int, remedy="give best, last or the number of a step")
    overrides = {} if data_dir is None else {"data.data_dir": data_dir}
    given = [name for name, value in (("model", model), ("dataset", dataset)) if value is not None]
    opened = loading.open_run(workdir, overrides, given=given)
    if dataset is None:
        dataset = opened.dataset
    elif not isinstance(dataset, Dataset):
        dataset = Dataset.from_arrays(dataset)
    own = None if model is None else own_models.adapted(model, dataset.image_shape, dataset.num_classes)
    steps = opened.checkpoints.steps()
    if step == "last" and steps:
        step = steps[-1]
    chosen = opened.choose(None if isinstance(step, str) else int(step), weights, among=steps)
    try:
        return Run.of_config(opened.config, dataset, opened.weights(chosen, dataset, own), own)
    except checkpoints_lib.UnlikeCheckpoint as error:
        name = opened.config.model.name if model is None else type(model).__name__
        remedy = "give the model, and the data, of the training"
        raise FieldError("model", name, str(error), remedy) from error
