"""What a remedy after training looks at: a checkpoint and its data, without the test split."""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxrobust import classwise, config as config_lib, data as data_lib
from jaxrobust.attacks import suites
from jaxrobust.config import objects
from jaxrobust.distributed import parallel
from jaxrobust.distributed.interruption import StopRequest
from jaxrobust.errors import FieldError
from jaxrobust.evaluation import attack_runner, batching, loading
from jaxrobust.evaluation.scoring import attack_split
from jaxrobust.models.weights import Weights
from jaxrobust.posthoc.heads import Head


class Measured(NamedTuple):
    """Of the validation split under attack: counts [C] of images, of robust images, and of predictions."""

    count: np.ndarray
    correct: np.ndarray
    predicted: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """[C], of each class."""
        return self.correct / self.count

    def figures(self) -> dict:
        """Average and worst class, as weights.json has them."""
        return {"average": float(self.correct.sum() / self.count.sum()), "worst": float(self.accuracy.min())}

    @property
    def score(self) -> float:
        """Their sum."""
        return sum(self.figures().values())


class TrainedModel:
    """A checkpoint whose head is to be changed (host arrays `weights`), with what a remedy may look at: the config of
    the run, and its data without the test split.
    """

    def __init__(self, config, dataset: data_lib.Dataset, mesh, weights: Weights, stop: StopRequest):
        empty = dataset.test.take(slice(0, 0))
        self.config, self.dataset = config, dataclasses.replace(dataset, test=empty)
        self.mesh, self.weights, self.stop = mesh, weights, stop
        self._classifier = loading.classifier(config, dataset.num_classes, mesh)
        self._check = attack_runner.stopping_hooks(stop, "nothing is written").check

    @property
    def fields(self):
        return self.config.posthoc

    @property
    def kind(self) -> str:
        return self.config.model.head

    @property
    def head(self) -> Head:
        head = self.weights.params["head"]
        return Head(head["kernel"], head["bias"])

    def with_head(self, head: Head) -> Weights:
        """The weights with another head, on the devices."""
        params = self.weights.params | {"head": head._asdict()}
        return parallel.replicate(Weights(params, self.weights.batch_stats), self.mesh)

    def features(self, split: data_lib.Split):
        """(labels [n], features [n, D], logits [n, C]) of the split's images, block by block."""
        weights = parallel.replicate(self.weights, self.mesh)
        for ids, _, images in batching.each(split, np.arange(len(split)), self._classifier.batch_size):
            yield split.labels[ids], *self._classifier.features(weights, images)
            self._check("the features")

    def check_validation(self, what: str) -> None:
        """Raises FieldError unless there are validation images of every class, by which `what` is chosen."""
        validation, name = self.dataset.validation, "data.validation_per_class"
        number = self.config.data.validation_per_class
        if not len(validation):
            problem = f"the run has no validation split, on which {what}"
            raise FieldError(name, number, problem, "train with one, or take a remedy or setting that needs none")
        counts = validation.counts(self.dataset.num_classes)
        if not counts.all():
            absent = self.dataset.class_names[int(counts.argmin())]
            raise FieldError(
                name, number, f"class {absent!r} has no validation image", "train with some of every class"
            )

    def measure(self, head: Head) -> Measured:
        """Attack the validation images, and count."""
        split, classes, config = self.dataset.validation, self.dataset.num_classes, self.config
        found = attack_split(
            self._classifier,
            self.with_head(head),
            split,
            suites.parse(self.fields.attack, config.threat.norm),
            objects.threat(config),
            config_lib.relative_step(config),
            title="validation",
            hooks=attack_runner.Hooks(check=self._check),
        )
        count = classwise.class_counts(split.labels, classes)
        correct = classwise.correct_counts(split.labels, found.is_robust, classes)
        # -1 is no class: the logits are not finite there.
        return Measured(count, correct, np.bincount(found.predictions[found.predictions >= 0], minlength=classes))
