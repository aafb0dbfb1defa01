"""The inputs of the probes: a scored checkpoint of a run, its data, and other models if they are given.

Every input is computed at its first use, and kept. An input that a run does not have raises `probe.Missing`.
"""

import functools
import pathlib

import jax
import numpy as np

from jaxrobust import classwise, config as config_lib, data
from jaxrobust.attacks import suites
from jaxrobust.attacks.landscape import Landscape
from jaxrobust.audit import results as audit_results
from jaxrobust.config import objects
from jaxrobust.data import randomness, splits
from jaxrobust.data.augment import to_float
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import loading, steps
from jaxrobust.evaluation.attack_runner import SHOWN
from jaxrobust.explanations import frequency, neighbours, transfer
from jaxrobust.explanations.probe import Missing
from jaxrobust.runs import checkpoints as checkpoints_lib
from jaxrobust.runs.reading import Checkpoint, RunFiles

OWN_FIELDS = ("data.data_dir", "eval.batch_size")


class DataInputs:
    """What the probes use that depend on the data only: of a run, or of a config before training.

    Args:
        examples: number of images of a split to use, stratified by class; 0 for all.
        title: of the progress display.
    """

    def __init__(self, config, dataset: data.Dataset, examples: int, title: str):
        self.config, self.dataset = config, dataset
        self.class_names = tuple(dataset.class_names)
        self._examples, self._title = examples, title

    @functools.cached_property
    def train_ids(self) -> np.ndarray:
        """Indices of the training images that are used."""
        return self._subset(self.dataset.train.labels, "explain train")

    @functools.cached_property
    def train_pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """(pixels [n, D] in [0, 1], labels [n]) of these training images, see neighbours.shrink."""
        where = self.dataset.train, self.config.eval.batch_size, f"{self._title}, pixels", self.train_ids
        found = [neighbours.shrink(np.asarray(to_float(images))) for _, images in SHOWN.blocks(*where)]
        return np.concatenate(found), self.dataset.train.labels[self.train_ids]

    def _subset(self, labels, purpose: str) -> np.ndarray:
        rng = randomness.generator(self.config.eval.seed, purpose)
        return splits.stratified_subset(labels, self._examples, len(self.class_names), rng)


class Model:
    """A checkpoint with its data, ready to compute features and predictions; its weights are on the devices."""

    def __init__(self, run: loading.OpenRun, weights):
        self.workdir, self.config, self.dataset = str(run.workdir), run.config, run.dataset
        self.weights, self.classifier = weights, run.classifier()

    def features(self, split: data.Split, ids, change=lambda images: images, what: str = "features"):
        """Features [n, D] and logits [n, C] of the images `ids` of a split, after `change` of [b, H, W, C]."""
        found = [self.classifier.features(self.weights, change(images)) for _, images in self.blocks(split, ids, what)]
        features, logits = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        if not np.isfinite(logits).all():
            raise UserError(f"{self.workdir}: the model's logits are not finite; explain other weights")
        return features, logits

    def predictions(self, images) -> np.ndarray:
        """Predictions [b] of a block of images, see steps.predicted."""
        return np.asarray(steps.predicted(self.classifier.features(self.weights, images)[1]))

    def blocks(self, split: data.Split, ids, what: str):
        """(ids, images) block by block, with progress."""
        return SHOWN.blocks(split, self.config.eval.batch_size, f"{self.workdir}, {what}", ids)


def open_model(
    workdir, overrides: dict, *, step: int | None = None, weights: str | None = None, field: str | None = None
) -> Model:
    """Open a checkpoint of a run: the given one, by default the best, else the last.

    Args:
        overrides: new values of `OWN_FIELDS`, by dotted name.
        field: the option with which the run was given, for messages.

    Raises:
        UserError: the run or the checkpoint does not exist.
    """
    run = loading.open_run(workdir, overrides, OWN_FIELDS, field=field)
    available = run.checkpoints.steps()
    if available and step is not None and step not in available:
        gone = f"step {step} was scored, but its checkpoint is gone"
        remedy = f"put it back, or score one of {', '.join(map(str, available))}"
        raise FieldError(field or "workdir", str(workdir), gone, remedy)
    try:
        return Model(run, run.weights(run.choose(step, weights)))
    except checkpoints_lib.DamagedCheckpoint as error:
        raise FieldError(field or "workdir", str(workdir), str(error), "give a run with an intact one") from error


class Inputs(DataInputs):
    """What all probes use: of a scored checkpoint of a run.

    Attributes:
        attack: the attack under which robustness is measured.
        robustness: [C], accuracy under the attack; nan for a class without scored images.
        correct, count: of the scored images [C].

    Args:
        overrides: see `open_model`.
        others: models on the same classes, by the name of their option: "standard" and "other".

    Raises:
        UserError: the checkpoint does not exist, or another model has other classes or another image shape.
    """

    def __init__(self, run: RunFiles, checkpoint: Checkpoint, attack: str, overrides, examples: int, others: dict):
        self.run, self.checkpoint, self.attack = run, checkpoint, attack
        record = run.scores[checkpoint][attack].record
        self.count, self.correct = np.array(record["count"]), np.array(record["correct"])
        self.robustness = classwise.class_accuracy(self.correct, self.count)
        self._others = others
        self.model = open_model(run.workdir, overrides, step=checkpoint.step, weights=checkpoint.weights)
        super().__init__(self.model.config, self.model.dataset, examples, self.model.workdir)
        if tuple(record["classes"]) != self.class_names:
            problem = "its results have other classes than its data"
            raise FieldError("workdir", str(run.workdir), problem, "give the data that it was scored on")
        self.radius = config_lib.radius(self.config)
        self._test = getattr(self.dataset, run.split)
        for name, other in others.items():
            _check_alike(f"--{name}", other, self.model)

    @property
    def head(self) -> dict[str, np.ndarray]:
        """The head's "kernel" [D, C], and "bias" [C]."""
        return jax.tree.map(np.asarray, jax.device_get(self.model.weights.params["head"]))

    @functools.cached_property
    def _scored(self) -> np.ndarray | None:
        """Indices of the scored images; None: the whole split."""
        return self.run.examples(self.checkpoint).get("index")

    @functools.cached_property
    def test_ids(self) -> np.ndarray:
        """Indices of the images to use, of the split that was scored.

        If only a part of the split was scored, these are images of the other part, provided that each class has at
        least as many images there. A probe and robustness then do not agree just because they share images.
        """
        labels, rest = self._test.labels, np.arange(len(self._test))
        if self._scored is not None:
            unscored = np.setdiff1d(rest, self._scored)
            enough = (np.bincount(labels[unscored], minlength=len(self.count)) >= self.count).all()
            rest = unscored if enough else np.sort(self._scored)
        return rest[self._subset(labels[rest], "explain test")]

    @property
    def test_is_scored(self) -> bool:
        """Whether robustness was scored on any of the images that are used."""
        return self._scored is None or bool(np.isin(self.test_ids, self._scored).any())

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Confusion matrix [C, C] under the attack, in numbers of images."""
        matrix = self.run.confusion(self.checkpoint, self.attack)
        if matrix is None:
            raise Missing("the run's folder contains no predictions under the attack")
        return matrix

    @functools.cached_property
    def training_accuracy(self) -> np.ndarray:
        """Accuracy [C] in training, in the epoch of the checkpoint; in the last epoch if that is not recorded."""
        lines = {line["epoch"]: line for line in self.run.training if "train_class_accuracy" in line}
        if not lines:
            raise Missing("the weights were trained elsewhere, or the record of the training is missing")
        line = lines.get(self.run.epoch(self.checkpoint)) or lines[max(lines)]
        return np.array(line["train_class_accuracy"], float)  # None becomes nan

    @functools.cached_property
    def audit(self) -> dict | None:
        """The content of audit.json, if it belongs to this checkpoint."""
        found = audit_results.AUDIT.read(self.run.workdir)
        if found and self.run.has(found) and (found["step"], found["weights"]) == self.checkpoint:
            return found
        return None

    @functools.cached_property
    def train_features(self) -> tuple[np.ndarray, np.ndarray]:
        """(features [n, D] float64, labels [n]) of training images."""
        return self._features_of(self.model)

    @functools.cached_property
    def standard_features(self) -> tuple[np.ndarray, np.ndarray]:
        """The same, from the model `standard`, which was trained without attack."""
        return self._features_of(self._other("standard"))

    def _features_of(self, model: Model):
        features, _ = model.features(self.dataset.train, self.train_ids)
        return np.float64(features), self.dataset.train.labels[self.train_ids]

    @functools.cached_property
    def landscape(self) -> tuple[np.ndarray, Landscape]:
        """(labels [n], landscape with arrays [n])."""
        config, model = self.config, self.model.classifier
        verified = objects.model(config, len(self.class_names), model.mesh, dtype="float32")
        step = steps.make_landscape_step(steps.prepared_of(verified), config.threat.norm, self.radius)
        step, split, found = parallel.spmd(step, model.mesh), self._test, []
        for block, images in self.model.blocks(split, self.test_ids, "landscape"):
            arrays = images, np.int32(split.labels[block]), np.int32(block)
            found.append(model.of_each(step, self.model.weights, arrays))
        return split.labels[self.test_ids], jax.tree.map(lambda *arrays: np.concatenate(arrays), *found)

    @functools.cached_property
    def natural(self) -> np.ndarray:
        """Predictions [n] on the unperturbed test images."""
        return self.model.features(self._test, self.test_ids, what="predictions")[1].argmax(1)

    def filtered(self, kind: str):
        """(labels, correct without filter, correct after filter) [n] of the test images; kind: of frequency.FILTERS."""
        labels = self._test.labels[self.test_ids]

        def change(images):
            return frequency.FILTERS[kind](np.asarray(to_float(images)))

        _, logits = self.model.features(self._test, self.test_ids, change, kind.replace("_", "-"))
        return labels, self.natural == labels, logits.argmax(1) == labels

    def transfer(self, direction: str):
        """(labels, predictions of the target model on natural images, and on adversarial images) [n].

        The adversarial images are made on this model for the other model ("out"), or on the other model for this one
        ("in"), with this run's threat. Images that the source model misclassifies have the natural prediction -1.
        """
        other = self._other("other")
        if pathlib.Path(other.workdir).resolve() == self.run.workdir.resolve():
            raise Missing("the other model is this one")
        if self.radius == 0:
            raise Missing("threat.eps_255 = 0, so there is no ball to attack in")
        source, target = (self.model, other) if direction == "out" else (other, self.model)
        norm = self.config.threat.norm
        spec = suites.parse(transfer.ATTACK, norm).members[0]
        config = source.config.copy_and_resolve_references()
        config.update({"threat": self.config.threat.to_dict()})
        begin = source.classifier.attacker(spec, norm, config_lib.relative_step(config)).whole_run()
        key = jax.random.key(config.eval.seed)

        def adversarial(weights, *arrays):
            return begin(weights, *arrays, key, np.int32(0))[0].adversarial

        split, natural, found = self._test, [], []
        for block, images in source.blocks(split, self.test_ids, f"transfer {direction}"):
            labels = split.labels[block]
            right = source.predictions(images) == labels
            arrays = (images, np.int32(labels), np.int32(block), np.full(len(block), self.radius, np.float32))
            made = source.classifier.of_each(adversarial, source.weights, arrays)
            natural.append(np.where(right, target.predictions(images), -1))
            found.append(target.predictions(made))
        return split.labels[self.test_ids], np.concatenate(natural), np.concatenate(found)

    def _other(self, name: str) -> Model:
        if name not in self._others:
            raise Missing(f"give --{name} RUN")
        return self._others[name]


def _check_alike(field: str, other: Model, model: Model) -> None:
    ours, theirs, remedy = model.dataset, other.dataset, f"give a run on the classes and images of {model.workdir}"
    if tuple(theirs.class_names) != tuple(ours.class_names):
        raise FieldError(field, other.workdir, "has other classes", remedy)
    if theirs.image_shape != ours.image_shape:
        raise FieldError(field, other.workdir, f"has images {theirs.image_shape}, not {ours.image_shape}", remedy)
