"""Evaluation of checkpoints: raw and averaged weights, on validation and test, per attack and per class."""

import math
import pathlib
import time

import numpy as np

from jaxrobust import config as config_lib, console, data, files
from jaxrobust.attacks import suites
from jaxrobust.config import objects
from jaxrobust.data import randomness, splits
from jaxrobust.distributed import hosts, parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import FieldError
from jaxrobust.evaluation import loading, result_writer
from jaxrobust.evaluation.attack_runner import stopping_hooks
from jaxrobust.evaluation.classifier import Classifier
from jaxrobust.evaluation.scoring import Scoring
from jaxrobust.models.weights import Weights
from jaxrobust.runs import checkpoints as checkpoints_lib, history, results
from jaxrobust.runs.tensorboard import Writer

EXAMPLE_IMAGES = 8
# Fields that an evaluation may set differently from the training.
OWN_FIELDS = (
    "data.data_dir",
    "eval.attacks",
    "eval.batch_size",
    "eval.checkpoints",
    "eval.every_epochs",
    "eval.splits",
)
FOLLOW_SECONDS = 10


class Evaluator:
    """Scores weights and writes results.jsonl, the examples files, TensorBoard and best.json.

    Results that are written are never computed again, so an interrupted evaluation continues. With several processes
    each attacks its share of a batch; process 0 decides what is missing, and writes. The run's config.json, not
    `config`, defines by which attack and score the best checkpoint is chosen. `stop` is tested between batches, and
    raises Interrupted.
    """

    def __init__(
        self,
        config,
        workdir,
        dataset: data.Dataset,
        classifier: Classifier,
        tensorboard: Writer,
        stop: StopRequest,
        like: Weights,
    ):
        self._config, self._workdir, self._tensorboard = config, pathlib.Path(workdir), tensorboard
        self._unreadable = set()  # steps of damaged checkpoints, each reported once
        self._class_names = dataset.class_names
        self._splits = {}  # name -> (the examples to score, their indices in the whole split, its size)
        for name, split in (("validation", dataset.validation), ("test", dataset.test)):
            rng = randomness.generator(config.eval.seed, "subset")
            index = splits.stratified_subset(split.labels, config.eval.examples, dataset.num_classes, rng)
            if index.size and name in config.eval.splits:
                self._splits[name] = split.take(index), index, len(split)
        if not self._splits and (len(dataset.validation) or len(dataset.test)):
            chosen = tuple(config.eval.splits)
            raise FieldError(
                "eval.splits", chosen, "the run has no such images", "give the other of validation and test"
            )
        # All attacks need the clean predictions, so these come first even if they are not requested.
        self._suites = [
            suites.parse(name, config.threat.norm) for name in dict.fromkeys(("clean", *config.eval.attacks))
        ]
        self._classifier, self._like = classifier, like
        self._hooks = stopping_hooks(stop, "finished attacks are kept; run again to continue")

    def wanted(self, steps: list[int]) -> dict[int, list[str]]:
        """Which weights of these checkpoints, "raw" or "averaged", `eval.checkpoints` selects for scoring, by step."""
        choice = self._config.eval.checkpoints
        if choice == "best" and steps:
            best = checkpoints_lib.read_best(self._workdir, steps)
            if best is None:
                remedy = "choosing it needs a validation split; use all or last"
                raise FieldError("eval.checkpoints", choice, "no best checkpoint has been chosen", remedy)
            return {best["step"]: [best["weights"]]}
        names = ["raw", "averaged"] if self._config.train.average_decay > 0 else ["raw"]
        return dict.fromkeys(steps if choice == "all" else steps[-1:], names)

    def is_done(self, step: int, names: list[str]) -> bool:
        """Whether all results for these weights of the checkpoint are written, and none for others."""
        return hosts.decide(lambda: self._is_done(step, names))

    def _is_done(self, step, names):
        checksums = history.checksums(self._workdir, step)
        own = [record for record in results.read(self._workdir) if record["step"] == step]
        done = {results.key_of(record) for record in own}
        return all(
            (step, weights, split, suite.name) in done and f"{suite.name}_prediction" in kept
            for weights in names
            for split in self._splits
            for kept in [results.example_names(self._workdir, step, weights, split, checksums.get(weights))]
            for suite in self._suites
        ) and all(results.belongs(record.get("checksum"), checksums.get(record["weights"])) for record in own)

    def is_finite(self, weights, split: data.Split) -> bool:
        """Whether the logits of the first images of a split are finite."""
        return self._classifier.is_finite(weights, np.asarray(split.images[: self._config.eval.batch_size]))

    def evaluate_missing(self, checkpoints, steps_per_epoch: int, due) -> int | None:
        """Score the checkpoints of due epochs (epoch -> bool) as far as they are not scored yet, except those in the
        middle of an epoch, saved because the run was asked to stop. Returns the last due epoch with a readable
        checkpoint, None if none.
        """
        last = None
        self._unreadable &= set(checkpoints.steps())  # the training may have replaced them
        steps = [step for step in checkpoints.steps() if step % steps_per_epoch == 0 and due(step // steps_per_epoch)]
        wanted = self.wanted(steps)
        for step in steps:
            if step in self._unreadable:
                continue
            epoch, names = step // steps_per_epoch, wanted.get(step, [])
            if not self.is_done(step, names):
                if parallel.is_writer():
                    files.writable(self._workdir, "workdir")
                try:
                    weights = {name: checkpoints.restore_weights(step, self._like, name) for name in names}
                except checkpoints_lib.DamagedCheckpoint as error:
                    # Otherwise the training has just deleted it.
                    if step in checkpoints.steps():
                        self._unreadable.add(step)
                        if parallel.is_writer():
                            console.warn(f"{error}; not scored")
                    continue
                self.evaluate(weights, step, epoch)
            last = epoch
        if parallel.is_writer():  # a kill may have come between the results and the mark
            history.mark_best(self._workdir)
        return last

    def check_readable(self, step: int) -> None:
        """Raise UserError if the checkpoint of `step` exists and cannot be read, so that waiting for it is useless."""
        if step in self._unreadable:
            problem = f"its last checkpoint, of step {step}, cannot be read"
            raise FieldError("workdir", str(self._workdir), problem, "train again, which replaces it")

    def evaluate(self, weights: dict, step: int, epoch: int) -> None:
        """Score weights on the devices, by name "raw" or "averaged", as far as not scored yet, and print a summary."""
        for name, of_name in weights.items():
            checksum = checkpoints_lib.checksum(of_name)
            if parallel.is_writer() and (dropped := history.drop_others(self._workdir, step, name, checksum)):
                console.say(f"step {step} has other {name} weights than its results: these are dropped ({dropped})")
            for split in self._splits:
                self._evaluate_split(of_name, name, split, step, epoch, checksum)
        if parallel.is_writer():
            history.mark_best(self._workdir)

    def _evaluate_split(self, weights, weights_name, split_name, step, epoch, checksum):
        """Score a split suite by suite, as far as it is not scored yet, and report it if anything was new."""
        split, index, split_examples = self._splits[split_name]
        about = {
            "step": step,
            "epoch": epoch,
            "weights": weights_name,
            "checksum": checksum,
            "split": split_name,
            "split_examples": split_examples,
        }
        store = results.StoredResults(self._workdir, step, weights_name, split_name, checksum)
        scoring = Scoring(
            self._classifier,
            weights,
            split,
            index,
            objects.threat(self._config),
            config_lib.relative_step(self._config),
            store,
            title=f"epoch {epoch} {weights_name} {split_name}",
            hooks=self._hooks,
            shown_images=EXAMPLE_IMAGES,
        )
        writer = result_writer.ResultWriter(self._config, self._class_names, about, store, self._tensorboard)
        has_news = False
        for result in scoring.results(self._suites):
            if not has_news and (is_zero := scoring.zero_gradient(self._suites)) is not None and parallel.is_writer():
                store.add_zero_gradient(split.labels, index, is_zero)
            has_news = True
            if parallel.is_writer():
                writer.write(scoring, result)
        if has_news and parallel.is_writer():
            writer.present(scoring, self._suites)


def evaluate_checkpoints(workdir, overrides: dict | None = None, *, follow: bool = False) -> None:
    """Score all checkpoints in the workdir that are not scored yet, with the run's own config.

    Args:
        overrides: values of fields by dotted name; only `OWN_FIELDS` may differ from the run's config.
        follow: wait for new checkpoints until the last one of the training is scored.

    Raises:
        UserError: the workdir holds no run, or a run of another config.
        Interrupted: a signal was received. Finished results are kept.
    """
    workdir = files.folder(workdir, "workdir")
    with StopRequest() as stop:

        def wait():
            for _ in range(math.ceil(FOLLOW_SECONDS / 0.2)):  # equally often on all processes
                if stop:
                    raise Interrupted(stop.signal_number, "stopped waiting for checkpoints")
                time.sleep(0.2)

        if follow and (choice := (overrides or {}).get("eval.checkpoints", "all")) != "all":
            raise FieldError("eval.checkpoints", choice, "is known only after the training", "do not follow")
        if follow:
            console.say(f"waiting for checkpoints in {workdir} until the end of the training")
        while follow and hosts.decide(lambda: history.read_config(workdir)) is None:
            wait()
        run = loading.open_run(workdir, overrides, may_differ=OWN_FIELDS)
        config, steps_per_epoch = run.config, run.steps_per_epoch

        def due(epoch):
            return config_lib.checkpoint_due(config, epoch)

        with Writer(workdir) as writer:
            evaluator = Evaluator(config, workdir, run.dataset, run.classifier(), writer, stop, run.abstract_weights())
            last = evaluator.evaluate_missing(run.checkpoints, steps_per_epoch, due)
            while follow and last != config.train.epochs:
                wait()
                last = evaluator.evaluate_missing(run.checkpoints, steps_per_epoch, due)
                evaluator.check_readable(steps_per_epoch * config.train.epochs)
    if last is None:
        raise FieldError("workdir", str(workdir), "holds no complete checkpoint yet", "follow, which waits for one")
