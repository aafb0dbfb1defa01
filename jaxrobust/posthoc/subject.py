"""What a remedy after training looks at: a checkpoint and its data, without the test split."""

import dataclasses
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxrobust import classwise
from jaxrobust import config as config_lib
from jaxrobust import data as data_lib
from jaxrobust.attacks import suites
from jaxrobust.data import randomness
from jaxrobust.distributed import parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import FieldError
from jaxrobust.evaluation import attack_runner, batching
from jaxrobust.evaluation import setup as evaluation_setup
from jaxrobust.models.weights import Weights
from jaxrobust.posthoc.heads import Head


class Measured(NamedTuple):
    """Verdicts on the validation split under attack: counts [C] of images, of those that withstand, of predictions."""

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


class Subject:
    """A checkpoint whose head is to be changed, with what a remedy may look at.

    Attributes:
        config: of the run.
        dataset: without its test split.
        weights: host arrays.
    """

    def __init__(self, config, dataset: data_lib.DataSet, mesh, weights: Weights, stop: StopRequest):
        empty = dataset.test.take(slice(0, 0))
        self.config, self.dataset = config, dataclasses.replace(dataset, test=empty)
        self.mesh, self.weights, self.stop = mesh, weights, stop
        self._attackers = None

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

    def look(self, split: data_lib.Split):
        """(labels [n], features [n, D], logits [n, C]) of the split's images, block by block."""
        step = evaluation_setup.features_step(self.config, self.dataset.num_classes, self.mesh)
        weights = parallel.replicate(self.weights, self.mesh)
        size = self.config.eval.batch_size
        for ids, _, images in batching.each(split, np.arange(len(split)), size):
            yield split.labels[ids], *attack_runner.of_each(step, weights, (images,), self.mesh, size)
            self._check_stop()

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
        split, classes, size = self.dataset.validation, self.dataset.num_classes, self.config.eval.batch_size
        if self._attackers is None:
            self._judge = attack_runner.Judge(
                evaluation_setup.judge_step(self.config, classes, self.mesh), self.mesh, size
            )
            key = randomness.key(self.config.eval.seed, randomness.Purpose.EVALUATION)
            self._attackers = [
                attack_runner.Attacker(
                    evaluation_setup.attack(self.config, classes, spec),
                    partial(evaluation_setup.attack_steps, self.config, classes, self.mesh, spec),
                    self.mesh,
                    size,
                    key,
                )
                for spec in suites.parse(self.fields.attack, self.config.threat.norm).members
            ]
        weights, prediction = self.with_head(head), np.zeros(len(split), np.int64)
        for ids, _, images in batching.each(split, np.arange(len(split)), size):
            labels, found = split.labels[ids], self._judge(weights, images, "validation")
            for attacker in self._attackers:
                alive = np.flatnonzero(found == labels)
                radius = np.full(len(alive), config_lib.radius(self.config))
                outcome = attacker(weights, images[alive], labels[alive], ids[alive], radius, title="validation")
                found[alive] = outcome.prediction
                self._check_stop()
            prediction[ids] = found
        count = classwise.class_counts(split.labels, classes)
        correct = classwise.correct_counts(split.labels, prediction == split.labels, classes)
        # -1 is no class: the model is no number there.
        return Measured(count, correct, np.bincount(prediction[prediction >= 0], minlength=classes))

    def _check_stop(self):
        if self.stop:
            raise Interrupted(self.stop.signal_number, "stopped; nothing is written")
