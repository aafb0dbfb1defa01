"""Scores the images of a split: clean, and under suites of attacks. It knows no files; a store may know what is done.

scoring = Scoring(classifier, weights, split, ids, Linf(8 / 255))
for result in scoring.results([suites.parse("standard")]):      # the members, then the suite itself
    ...
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from jaxrobust.attacks.suites import ATTACKS, AttackSpec, Suite
from jaxrobust.attacks.threats import Threat
from jaxrobust.data.augment import to_float
from jaxrobust.data.dataset import Split
from jaxrobust.distributed import hosts, parallel
from jaxrobust.evaluation import batching, signs
from jaxrobust.evaluation.attack_runner import SILENT, Hooks, Task, Work, attack_suite
from jaxrobust.evaluation.classifier import Classifier
from jaxrobust.evaluation.verdicts import Verdicts


class Result(NamedTuple):
    """What is new about a split."""

    attack: str  # "clean", the name of a suite, or SUITE/MEMBER for the worst case over a suite up to that member
    members: tuple[AttackSpec, ...]  # the attack behind it, or those of the suite; none for the clean images
    prediction: np.ndarray  # [N] int; -1 where there is none, as the logits under attack are not finite
    work: Work | None  # its cost; None for a suite of several members, whose cost is that of its members


class NoStore:
    """The results known from before, of which there are none; see results.StoredResults for those in files."""

    def finished(self, attack: str, *state, **work) -> None:
        """Nothing is known, and nothing kept."""

    is_finished = unfinished = keep_unfinished = finished


@dataclasses.dataclass
class Scoring:
    """The state of scoring a split with given weights. All processes do the same; each attacks its share of a batch."""

    classifier: Classifier
    weights: object  # on the devices
    split: Split  # the examples
    # [N] of each example in the whole split; seeds its random numbers, so a subset gives the same results.
    ids: np.ndarray
    threat: Threat  # of the attacks
    relative_step: float = 0.25  # step of PGD as a share of the radius
    store: NoStore = dataclasses.field(default_factory=NoStore)  # results that are known; they are not yielded again
    title: str = ""  # for messages
    hooks: Hooks = SILENT
    shown_images: int = 0  # how many of the first images to return as perturbed
    # [N] under each attack scored so far, by the name of its result.
    predictions: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    # [n, H, W, C] these first images as perturbed by the current suite; n = 0 if they are not known, because an
    # attack of it was computed earlier.
    shown: np.ndarray = dataclasses.field(init=False)

    def results(self, suites: Iterable[Suite]) -> Iterator[Result]:
        """Score suite by suite, and each by member, which starts from the predictions of the one before.

        Args:
            suites: the first is that of the clean images, from which the others start.

        Yields:
            What is new, and is to be stored before the next one is asked for.

        Raises:
            UserError: the model's logits are not finite.
        """
        for suite in suites:
            self.shown = np.array(to_float(np.asarray(self.split.images[: self.shown_images])))
            prediction, stages = self.predictions.get("clean"), suite.stages or {"clean": None}
            for attack, spec in stages.items():
                known = hosts.decide(partial(self.store.finished, attack))
                if known is not None:
                    self.shown = self.shown[:0]  # the adversarial images of an earlier evaluation are not kept
                    prediction = np.array(known)
                else:
                    prediction, work = self._predict() if spec is None else self._attack(attack, spec, prediction)
                    yield Result(attack, () if spec is None else (spec,), prediction, work)
                self.predictions[attack] = prediction
            self.predictions[suite.name] = prediction
            # A suite of one member is finished with that member, whose result has the same name.
            if suite.name not in stages and not hosts.decide(partial(self.store.is_finished, suite.name)):
                yield Result(suite.name, suite.members, prediction, None)

    def zero_gradient(self, suites: Iterable[Suite]) -> np.ndarray | None:
        """Whether the gradient of the cross-entropy is exactly zero at each image, bool [N]; None if no attack of the
        suites needs gradients, as the model may then have none.
        """
        if all(ATTACKS[spec.kind].queries for suite in suites for spec in suite.members):
            return None
        model, labels, found = self.classifier, self.split.labels, np.zeros(len(self.split), bool)
        for mine, images in self.hooks.blocks(self.split, model.batch_size, f"{self.title} gradients".strip()):
            is_zero = model.of_each(model.zero_gradient_step, self.weights, (images, np.int32(labels[mine])))
            batching.merge(found, mine, is_zero)
        return found

    def _predict(self) -> tuple[np.ndarray, Work]:
        """Predictions [N] for the clean images."""
        title = f"{self.title} clean".strip()
        started, prediction = time.monotonic(), np.zeros(len(self.split), np.int64)
        for mine, images in self.hooks.blocks(self.split, self.classifier.batch_size, title):
            batching.merge(prediction, mine, self.classifier.predict(self.weights, images, title))
        return prediction, Work(len(self.split), 0.0, time.monotonic() - started)

    def _attack(self, attack: str, spec: AttackSpec, before) -> tuple[np.ndarray, Work]:
        """Predictions [N] under an attack on the examples still classified correctly before it, stored after each
        block, so that an interrupted attack continues; `shown` becomes adversarial."""
        labels, prediction, todo, work = self.split.labels, before.copy(), None, Work()
        if saved := hosts.decide(lambda: self.store.unfinished(attack)):
            prediction[:], todo = saved["prediction"], np.array(saved["todo"], np.int64)
            passes, wasted, seconds = (saved["work"][name] for name in ("passes", "idle", "seconds"))
            work, self.shown = Work(passes, wasted, seconds), self.shown[:0]  # images of earlier blocks are not saved
        task = Task(self.split, labels, self.ids, np.full(len(labels), self.threat.eps))
        attacker = self.classifier.attacker(spec, self.threat.norm, self.relative_step)
        for progress in attack_suite(
            {attack: attacker},
            self.weights,
            task,
            prediction,
            todo=todo,
            title=self.title,
            hooks=self.hooks,
            adversarial=self.shown,
        ):
            work += progress.work
            if len(progress.todo) and parallel.is_writer():
                costs = dict(zip(("passes", "idle", "seconds"), work, strict=True))
                self.store.keep_unfinished(attack, prediction, progress.todo, **costs)
        return prediction, work


def attack_split(
    classifier: Classifier,
    weights,
    split: Split,
    suite: Suite,
    threat: Threat,
    relative_step: float,
    *,
    class_names: Sequence[str] | None = None,
    keep_adversarial: bool = False,
    title: str = "",
    hooks: Hooks = SILENT,
) -> Verdicts:
    """Score the clean images of a split and one suite, from the beginning; the images are kept in one process alone.
    The verdicts have notes, see signs.notes, if `class_names` are given.
    """
    shown = len(split) if keep_adversarial and jax.process_count() == 1 else 0
    ids = np.arange(len(split))
    scoring = Scoring(
        classifier, weights, split, ids, threat, relative_step, title=title, hooks=hooks, shown_images=shown
    )
    labels, members, work = scoring.split.labels, {}, Work()
    clean = Suite("clean", ())
    for result in scoring.results((clean, suite) if suite.members else (clean,)):
        if result.work is not None and (result.members or not suite.members):
            work += result.work
        if result.work is not None and result.members:
            members[result.members[0].name] = result.prediction == labels
    prediction = scoring.predictions[suite.name]
    zero_gradient = scoring.zero_gradient([suite]) if class_names is not None else None
    return Verdicts(
        is_robust=prediction == labels,
        predictions=prediction,
        adversarial=scoring.shown if len(scoring.shown) else None,
        members={"clean": scoring.predictions["clean"] == labels} | members,
        forward_passes=work.forward_passes / len(labels),
        attack=suite.name,
        norm=scoring.threat.norm,
        eps=scoring.threat.eps,
        notes=() if class_names is None else signs.notes(labels, class_names, scoring.predictions, zero_gradient),
    )
