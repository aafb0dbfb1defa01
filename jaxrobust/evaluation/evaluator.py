"""Evaluation of checkpoints: raw and averaged weights, on validation and test, per attack and per class."""

import dataclasses
import pathlib
import time
from functools import partial

import numpy as np

from jaxrobust import config as config_lib
from jaxrobust import console, data
from jaxrobust.attacks import suites
from jaxrobust.classwise import unequal
from jaxrobust.data import randomness, splits
from jaxrobust.data.augment import to_float
from jaxrobust.distributed import hosts, parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import attack_runner, batching, loading
from jaxrobust.evaluation import setup as evaluation_setup
from jaxrobust.evaluation.attack_runner import Work
from jaxrobust.runs import checkpoints as checkpoints_lib
from jaxrobust.runs import results
from jaxrobust.runs.tensorboard import Writer
from jaxrobust.training.state import TrainState

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
    """Scores train states and writes results.jsonl, the examples files, TensorBoard and best.json.

    Results that are written are never computed again, so an interrupted evaluation continues. With several processes
    each attacks its share of a batch; process 0 decides what is missing, and writes.

    Args:
        config: of the evaluation.
        workdir: the run's folder. Its config.json defines by which attack and score the best checkpoint is chosen.
        dataset: with the splits to score.
        writer: TensorBoard.
        stop: tested between batches; once it is set, `Interrupted` is raised.
    """

    def __init__(self, config, workdir, dataset: data.DataSet, mesh, writer: Writer, stop: StopRequest):
        self._config, self._workdir, self._mesh = config, pathlib.Path(workdir), mesh
        self._writer, self._stop = writer, stop
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
        size, classes = config.eval.batch_size, dataset.num_classes
        self._judge = attack_runner.Judge(evaluation_setup.judge_step(config, classes, mesh), mesh, size)
        key = randomness.key(config.eval.seed, randomness.Purpose.EVALUATION)
        self._attackers = {
            spec: attack_runner.Attacker(
                evaluation_setup.attack(config, classes, spec),
                partial(evaluation_setup.attack_steps, config, classes, mesh, spec),
                mesh,
                size,
                key,
            )
            for suite in self._suites
            for spec in suite.members
        }

    def wanted(self, step: int, last_step: int, averaged: bool) -> list[str]:
        """Which weights of a checkpoint, "raw" or "averaged", `eval.checkpoints` selects for scoring.

        Args:
            last_step: step of the last checkpoint.
            averaged: whether the state has averaged weights.
        """
        choice = self._config.eval.checkpoints
        if choice == "best":
            best = hosts.decide(lambda: results.BEST.read(self._workdir))
            if best is None:
                remedy = "choosing it needs a validation split; use all or last"
                raise FieldError("eval.checkpoints", choice, "no best checkpoint has been chosen", remedy)
            return [best["weights"]] if step == best["step"] else []
        names = ["raw", "averaged"] if averaged else ["raw"]
        return names if choice == "all" or step == last_step else []

    def is_done(self, step: int, names: list[str]) -> bool:
        """Whether all results for these weights of the checkpoint are written."""
        return hosts.decide(lambda: self._is_done(step, names))

    def _is_done(self, step, names):
        done = {results.key_of(record) for record in results.read(self._workdir)}
        return all(
            (step, weights, split, suite.name) in done and f"{suite.name}_prediction" in kept
            for weights in names
            for split in self._splits
            for kept in [results.example_names(self._workdir, step, weights, split)]
            for suite in self._suites
        )

    def is_finite(self, weights, split: data.Split) -> bool:
        """Whether the logits of the first images of a split are finite."""
        return self._judge.is_finite(weights, np.asarray(split.images[: self._config.eval.batch_size]))

    def evaluate_missing(self, checkpoints, like: TrainState, steps_per_epoch: int, due) -> int | None:
        """Score the checkpoints of `due` epochs as far as they are not scored yet.

        Checkpoints in the middle of an epoch, saved because the run was asked to stop, are skipped.

        Args:
            due: epoch -> whether its checkpoint is to be scored.

        Returns:
            The last due epoch with a readable checkpoint; None if there is none.
        """
        last = None
        self._unreadable &= set(checkpoints.steps())  # the training may have replaced them
        steps = [step for step in checkpoints.steps() if step % steps_per_epoch == 0 and due(step // steps_per_epoch)]
        for step in steps:
            if step in self._unreadable:
                continue
            epoch = step // steps_per_epoch
            wanted = self.wanted(step, steps[-1], averaged=like.averaged is not None)
            if not self.is_done(step, wanted):
                try:
                    state = checkpoints.restore(step, like)
                except checkpoints_lib.DamagedCheckpoint as error:
                    # Otherwise the training has just deleted it.
                    if step in checkpoints.steps():
                        self._unreadable.add(step)
                        if parallel.is_writer():
                            console.warn(f"{error}; not scored")
                    continue
                self.evaluate(state, step, epoch, wanted)
            last = epoch
        return last

    def check_readable(self, step: int) -> None:
        """Raise UserError if the checkpoint of `step` exists and cannot be read, so that waiting for it is useless."""
        if step in self._unreadable:
            raise UserError(
                f"workdir = {str(self._workdir)!r}: its last checkpoint, of step {step}, cannot be read; "
                "run the training command again, which replaces it"
            )

    def evaluate(self, state: TrainState, step: int, epoch: int, names=("raw", "averaged")) -> None:
        """Score a state as far as it is not scored yet, and print a summary.

        Args:
            names: the weights to score.
        """
        for name, weights in (("raw", state.weights), ("averaged", state.averaged)):
            if weights is not None and name in names:
                for split in self._splits:
                    self._evaluate_split(weights, name, split, step, epoch)
        if parallel.is_writer():
            self._mark_best()

    def _evaluate_split(self, weights, weights_name, split_name, step, epoch):
        """Score a split suite by suite, as far as it is not scored yet, and report it if anything was new."""
        split, index, split_examples = self._splits[split_name]
        about = {
            "step": step,
            "epoch": epoch,
            "weights": weights_name,
            "split": split_name,
            "split_examples": split_examples,
        }
        verdicts = results.StoredResults(self._workdir, step, weights_name, split_name)
        scoring = _Scoring(weights, about, split, index, verdicts)
        for suite in self._suites:
            self._score_suite(scoring, suite)
        if scoring.has_news and parallel.is_writer():
            self._present(scoring)

    def _score_suite(self, scoring, suite):
        """Score the members of a suite, each starting from the predictions of the one before, then the suite itself."""
        scoring.shown = np.array(to_float(np.asarray(scoring.split.images[:EXAMPLE_IMAGES])))
        prediction = scoring.predictions.get("clean")
        for attack, spec in (suite.stages or {"clean": None}).items():
            prediction = self._score_stage(scoring, attack, spec, prediction)
        scoring.predictions[suite.name] = prediction
        # A suite of one member is finished with that member, whose result has the same name.
        if not hosts.decide(partial(scoring.verdicts.is_finished, suite.name)):
            scoring.has_news = True
            if parallel.is_writer():
                records = scoring.verdicts.records()
                work = results.total_work([records[attack] for attack in suite.stages])
                self._write(scoring, suite.name, work, suite.members)

    def _score_stage(self, scoring, attack, spec, before) -> np.ndarray:
        """Predictions [N] under one attack of a suite; computed and written if they are not known yet.

        Args:
            attack: name of the result.
            spec: what the attack does; None for the clean images.
            before: [N] predictions under the attacks before it; None for the clean images.
        """
        known = hosts.decide(partial(scoring.verdicts.finished, attack))
        if known is not None:
            scoring.shown = scoring.shown[:0]  # the adversarial images of an earlier evaluation are not kept
            scoring.predictions[attack] = np.array(known)
            return scoring.predictions[attack]
        scoring.has_news = True
        if spec is None:
            prediction, work = self._classify(scoring, attack)
        else:
            prediction, work = self._attack(scoring, attack, spec, before)
        scoring.predictions[attack] = prediction
        if parallel.is_writer():
            self._write(scoring, attack, work.of_each(len(scoring.split)), () if spec is None else (spec,))
        return prediction

    def _write(self, scoring, attack, work: dict, specs):
        """Write a result to the examples file, TensorBoard and results.jsonl.

        Args:
            work: passes, idle and seconds.
            specs: the attack behind it, the members of a suite, or none for the clean images.
        """
        labels, prediction = scoring.split.labels, scoring.predictions[attack]
        scoring.verdicts.add(attack, labels, scoring.index, prediction)
        if attack in scoring.verdicts.records():  # only its predictions were lost
            return
        record = results.make_record(
            **scoring.about,
            attack=attack,
            class_names=self._class_names,
            labels=labels,
            prediction=prediction,
            clean_prediction=scoring.predictions["clean"],
            **work,
            **self._settings(specs),
        )
        self._writer.evaluation(record)
        # The line is written last, so that it proves that everything else is there.
        scoring.verdicts.append(record)

    def _present(self, scoring):
        """Draw the figures of a scored split, and print its accuracies in one line."""
        records, split = scoring.verdicts.records(), scoring.split
        scored = [records[suite.name] for suite in self._suites]
        shown = scoring.shown if len(scoring.shown) else None
        self._writer.figures(scored, scoring.predictions, split.images, split.labels, shown)
        console.say(_one_line(scoring.title, records, self._config.eval.attacks))

    def _settings(self, specs) -> dict:
        """The settings that a result records, of its attack or of its suite of several."""
        settings = dict.fromkeys(("norm", "eps", "step_size", "steps", "restarts", "targets", "loss"))
        if not specs:  # clean
            return settings
        radius, classes = config_lib.radius(self._config), len(self._class_names)
        settings |= {"norm": self._config.threat.norm, "eps": radius}
        if len(specs) > 1:
            return settings | {"members": [spec.name for spec in specs]}
        (spec,) = specs
        relative = spec.relative_step(config_lib.relative_step(self._config))
        return settings | {
            "step_size": None if relative is None else relative * radius,
            "steps": spec.iterations,
            "restarts": spec.restarts,
            "targets": min(spec.targets, classes - 1),
            "loss": spec.loss(classes),
        }

    def _classify(self, scoring, attack) -> tuple[np.ndarray, Work]:
        """Predictions [N] for the clean images."""
        split, title = scoring.split, f"{scoring.title} {attack}"
        started, prediction = time.monotonic(), np.zeros(len(split), np.int64)
        with console.progress(title, len(split), "images") as advance:
            for ids, mine, images in batching.each(split, np.arange(len(split)), self._config.eval.batch_size):
                batching.merge(prediction, mine, self._judge(scoring.weights, images, title))
                advance(len(ids))
                self._check_stop(title)
        return prediction, Work(passes=len(split), seconds=time.monotonic() - started)

    def _attack(self, scoring, attack, spec, before) -> tuple[np.ndarray, Work]:
        """Predictions [N] under an attack on the examples that are still classified correctly before it.

        The predictions are saved after each block, so that an interrupted attack continues. The images in
        `scoring.shown` are replaced by adversarial ones.

        Args:
            attack, spec, before: as of `_score_stage`.

        Raises:
            Interrupted: a stop was requested.
        """
        split, verdicts, shown, attacker = scoring.split, scoring.verdicts, scoring.shown, self._attackers[spec]
        title = f"{scoring.title} {attack}"
        alive = np.flatnonzero(before == split.labels)
        prediction, todo, work = before.copy(), alive, Work()
        if saved := hosts.decide(lambda: verdicts.unfinished(attack)):
            prediction, todo, work = np.array(saved["prediction"]), np.array(saved["todo"]), Work(**saved["work"])
            shown = scoring.shown = shown[:0]  # the adversarial images of earlier blocks are not saved
        with console.progress(title, len(alive), "images", len(alive) - len(todo)) as advance:

            def parts_done(parts):
                advance(parts / attacker.parts)
                self._check_stop(title)

            for block, mine, images in batching.each(split, todo, self._config.eval.batch_size, attacker.passes):
                started = time.monotonic()
                outcome = attacker(
                    scoring.weights,
                    images,
                    split.labels[mine],
                    scoring.index[mine],
                    np.full(len(mine), config_lib.radius(self._config)),
                    title=title,
                    keep=int((mine < len(shown)).sum()),
                    advance=parts_done,
                )
                shown[mine[: len(outcome.adversarial)]] = outcome.adversarial
                batching.merge(prediction, mine, outcome.prediction)
                # NaN logits (-1) count as misclassified. Results hold classes only, so a wrong class is recorded.
                lost = prediction == -1
                prediction[lost] = (split.labels[lost] + 1) % len(self._class_names)
                passes, idle = np.sum(hosts.gather([outcome.passes, outcome.idle]), axis=0).tolist()
                work += Work(passes, idle, time.monotonic() - started)
                todo = todo[len(block) :]
                if len(todo) and parallel.is_writer():
                    verdicts.keep_unfinished(attack, prediction, todo, **work._asdict())
        return prediction, work

    def _check_stop(self, title):
        if self._stop:
            raise Interrupted(
                self._stop.signal_number, f"stopped in {title}, finished attacks are kept; run again to continue"
            )

    def _mark_best(self):
        trained = config_lib.from_dict(results.CONFIG.read(self._workdir))
        best = results.find_best(
            results.read(self._workdir),
            attack=config_lib.best_attack(trained),
            criterion=trained.checkpoint.best,
        )
        if best is not None:
            results.BEST.write(self._workdir, best)


@dataclasses.dataclass
class _Scoring:
    """The state of scoring one split with given weights.

    Attributes:
        weights: on the devices.
        about: step, epoch, weights ("raw" or "averaged"), split and split_examples, as results record them.
        split: the examples.
        index: [N] of each example in the whole split; seeds its random numbers, so a subset gives the same results.
        verdicts: the results and predictions in the files.
        predictions: [N] under each attack scored so far, by the name of its result.
        shown: [n, H, W, C] the first images as perturbed by the current suite; n = 0 if they are not known, because an
            attack of it was computed earlier.
        has_news: whether anything new was scored.
    """

    weights: object
    about: dict
    split: data.Split
    index: np.ndarray
    verdicts: results.StoredResults
    predictions: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    shown: np.ndarray = dataclasses.field(init=False)
    has_news: bool = False

    @property
    def title(self) -> str:
        """For messages."""
        return f"epoch {self.about['epoch']} {self.about['weights']} {self.about['split']}"


def evaluate_checkpoints(workdir, overrides: dict | None = None, *, follow: bool = False) -> None:
    """Score all checkpoints in the workdir that are not scored yet, with the run's own config.

    Args:
        overrides: values of fields by dotted name; only `OWN_FIELDS` may differ from the run's config.
        follow: wait for new checkpoints until the last one of the training is scored.

    Raises:
        UserError: the workdir holds no run, or a run of another config.
        Interrupted: a signal was received. Finished results are kept.
    """
    workdir = pathlib.Path(workdir)
    with StopRequest() as stop:

        def wait():
            hosts.decide(lambda: sleep(time.monotonic() + FOLLOW_SECONDS))
            if stop:
                raise Interrupted(stop.signal_number, "stopped waiting for checkpoints")

        def sleep(until):
            while time.monotonic() < until and not stop.is_near():
                time.sleep(min(0.2, FOLLOW_SECONDS))

        if follow and (choice := (overrides or {}).get("eval.checkpoints", "all")) != "all":
            raise FieldError("eval.checkpoints", choice, "is known only after the training", "leave out --follow")
        if follow:
            console.say(f"waiting for checkpoints in {workdir} until the end of the training")
        while (stored := hosts.decide(lambda: results.CONFIG.read(workdir))) is None:
            if not follow:
                raise UserError(f"workdir = {str(workdir)!r}: holds no run; train first, or give the run's --workdir")
            wait()
        config, mesh, dataset, like, checkpoints, steps_per_epoch = loading.open_run(
            workdir, stored, overrides or {}, may_differ=OWN_FIELDS
        )

        def due(epoch):
            return config_lib.checkpoint_due(config, epoch)

        with Writer(workdir) as writer:
            evaluator = Evaluator(config, workdir, dataset, mesh, writer, stop)
            last = evaluator.evaluate_missing(checkpoints, like, steps_per_epoch, due)
            while follow and last != config.train.epochs:
                wait()
                last = evaluator.evaluate_missing(checkpoints, like, steps_per_epoch, due)
                evaluator.check_readable(steps_per_epoch * config.train.epochs)
    if last is None:
        raise UserError(f"workdir = {str(workdir)!r}: holds no complete checkpoint yet; --follow waits for one")


def _one_line(title, records, attacks) -> str:
    parts = [
        f"{name} {100 * record['accuracy']:.1f} ("
        + (f"balanced: {100 * record['balanced_accuracy']:.1f}, " if unequal(record["count"]) else "")
        + f"worst: {record['worst_class']} {100 * record['worst_class_accuracy']:.1f})"
        for name, record in ((name, records[name]) for name in attacks)
    ]
    return f"{title}: {', '.join(parts)}"
