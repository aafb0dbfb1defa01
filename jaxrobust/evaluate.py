"""Evaluation: every checkpoint, raw and averaged weights, validation and test, attack by attack, class by class."""

import pathlib
import time

import jax
import numpy as np

from jaxrobust import build, console, data, files, hosts, parallel, report, results
from jaxrobust import checkpoints as checkpoints_lib
from jaxrobust import config as config_lib
from jaxrobust.attacks import suites
from jaxrobust.data import batches, randomness, splits, streaming
from jaxrobust.errors import UserError
from jaxrobust.interruption import Interrupted, StopRequest
from jaxrobust.train_state import TrainState
from jaxrobust.writers import Writer

# float32 rounding of image + perturbation, and of an L2 norm over many pixels; a wrong projection is far larger.
LARGEST_EXCESS = 1e-5
EXAMPLE_IMAGES = 8
BATCHES_AHEAD = 2  # on their way to the devices; those of a streamed set have to be decoded
# What an evaluation of a finished or running training may set otherwise than the training did.
OWN_FIELDS = ("data.data_dir", "eval.attacks", "eval.batch_size", "eval.every_epochs")
FOLLOW_SECONDS = 10


class Evaluator:
    """Scores train states and writes what comes out: results.jsonl, examples, TensorBoard, best.json.

    What has been written is never computed again, so an evaluation that was interrupted continues. Of several processes
    all attack, each its share of a batch; process 0 knows what is missing, and writes.

    Args:
        config: of the evaluation.
        workdir: the run's folder. Its config.json says by which attack and score the best checkpoint is chosen.
        dataset: with the splits to score.
        writer: TensorBoard.
        stop: checked between batches; when it is set, `Interrupted` is raised.
    """

    def __init__(self, config, workdir, dataset: data.DataSet, mesh, writer: Writer, stop: StopRequest):
        self._config, self._workdir, self._mesh = config, pathlib.Path(workdir), mesh
        self._writer, self._stop = writer, stop
        self._unreadable = set()  # steps of damaged checkpoints, reported once
        self._class_names = dataset.class_names
        self._splits = {}  # name -> (the examples to score, their indices in the whole split)
        for name, split in (("validation", dataset.validation), ("test", dataset.test)):
            rng = randomness.generator(config.eval.seed, "subset")
            index = splits.stratified_subset(split.labels, config.eval.examples, dataset.num_classes, rng)
            if index.size:
                self._splits[name] = split.take(index), index
        # Clean predictions are part of every verdict, so they come first whether or not they are asked for.
        self._attacks = [suites.parse(name) for name in dict.fromkeys(("clean", *config.eval.attacks))]
        self._steps = {spec.name: build.eval_step(config, dataset.num_classes, mesh, spec) for spec in self._attacks}
        self._key = jax.random.fold_in(jax.random.key(config.eval.seed), 2)  # 0 and 1 are the training's

    def is_done(self, step: int, averaged: bool) -> bool:
        """Whether every result of the checkpoint is written."""
        return hosts.decide(lambda: self._is_done(step, averaged))

    def _is_done(self, step, averaged):
        done = {results.key_of(record) for record in results.read(self._workdir)}
        names = ("raw", "averaged") if averaged else ("raw",)
        return all(
            (step, weights, split, spec.name) in done
            for weights in names
            for split in self._splits
            for spec in self._attacks
        )

    def is_finite(self, weights, split: data.Split) -> bool:
        """Whether the logits of the first images of a split are finite numbers."""
        batch = next(batches.padded_batches(split, self._config.eval.batch_size))
        inputs = parallel.shard((batch["images"], batch["labels"], batch["ids"]), self._mesh)
        return bool(self._steps["clean"](weights, *inputs, self._key)["finite"])

    def evaluate_missing(self, checkpoints, like: TrainState, steps_per_epoch: int, due) -> int | None:
        """Score the checkpoints of epochs that are `due` and not scored; the last such epoch, None without any.

        A checkpoint in the middle of an epoch, saved because the run was asked to stop, is none of them.
        """
        last = None
        self._unreadable &= set(checkpoints.steps())  # a training puts another in its place
        for step in checkpoints.steps():
            epoch, rest = divmod(step, steps_per_epoch)
            if rest or not due(epoch) or step in self._unreadable:
                continue
            if not self.is_done(step, averaged=like.averaged is not None):
                try:
                    state = checkpoints.restore(step, like)
                except checkpoints_lib.DamagedCheckpoint as error:
                    # Or else the training has just deleted it.
                    if step in checkpoints.steps():
                        self._unreadable.add(step)
                        if parallel.is_writer():
                            console.warn(f"{error}; not scored")
                    continue
                self.evaluate(state, step, epoch)
            last = epoch
        return last

    def check_readable(self, step: int) -> None:
        """Raises UserError if the checkpoint of `step` is there and cannot be read, so that waiting is in vain."""
        if step in self._unreadable:
            raise UserError(
                f"workdir = {str(self._workdir)!r}: its last checkpoint, of step {step}, cannot be read; "
                "train again with the same command, which replaces it"
            )

    def evaluate(self, state: TrainState, step: int, epoch: int) -> None:
        """Score a state, as far as it is not scored yet, and say how it did."""
        for name, weights in (("raw", state.weights), ("averaged", state.averaged)):
            if weights is not None:
                for split in self._splits:
                    self._evaluate_split(weights, name, split, step, epoch)
        if parallel.is_writer():
            self._mark_best()

    def _evaluate_split(self, weights, weights_name, split_name, step, epoch):
        split, index = self._splits[split_name]
        records, arrays = {}, {}

        def missing():
            records.update(
                (record["attack"], record)
                for record in results.read(self._workdir)
                if (record["step"], record["weights"], record["split"]) == (step, weights_name, split_name)
            )
            if all(spec.name in records for spec in self._attacks):
                return []
            arrays.update(results.read_examples(self._workdir, step, weights_name, split_name))
            arrays.update(labels=split.labels, index=index)
            # Lost verdicts are made again, even if their line is there: the clean ones are part of all others.
            return [s.name for s in self._attacks if not (s.name in records and f"{s.name}_prediction" in arrays)]

        names = hosts.decide(missing)
        adversarial = None
        for spec in self._attacks:
            if spec.name not in names:
                adversarial = None
                continue
            started = time.monotonic()
            title = f"epoch {epoch} {weights_name} {split_name} {spec.name}"
            prediction, adversarial = self._attack(weights, split, index, spec, title)
            if not parallel.is_writer():
                continue
            clean_prediction = prediction if spec.name == "clean" else arrays["clean_prediction"]
            prediction = results.worst_prediction(split.labels, prediction, clean_prediction)
            record = results.make_record(
                step=step,
                epoch=epoch,
                weights=weights_name,
                split=split_name,
                attack=spec.name,
                class_names=self._class_names,
                labels=split.labels,
                prediction=prediction,
                clean_prediction=clean_prediction,
                seconds=time.monotonic() - started,
                **self._settings(spec),
            )
            arrays |= {spec.name: prediction == split.labels, f"{spec.name}_prediction": prediction.astype(np.int32)}
            # The line comes last: where there is one, there is everything else.
            self._writer.evaluation(record)
            results.add_examples(self._workdir, step, weights_name, split_name, arrays)
            results.append(self._workdir, record)
            records[spec.name] = record
        if names and parallel.is_writer():
            self._writer.figures([records[spec.name] for spec in self._attacks], arrays, split.images, adversarial)
            console.say(_one_line(f"epoch {epoch} {weights_name} {split_name}", records, self._config.eval.attacks))

    def _settings(self, spec) -> dict:
        """What a result says of the attack behind it."""
        radius = config_lib.radius(self._config)
        attacked = spec.steps > 0
        return {
            "norm": self._config.threat.norm if attacked else None,
            "eps": radius if attacked else None,
            "step_size": spec.step_size(radius, config_lib.step_size(self._config, "eval")),
            "steps": spec.steps if attacked else None,
            "restarts": spec.restarts if attacked else None,
        }

    def _attack(self, weights, split, index, spec, title):
        """Predictions [N] under an attack, and the first few adversarial images.

        Raises:
            UserError: the model's output is not a number.
            Interrupted: the stop is set.
        """
        predictions = np.zeros(len(split), np.int64)
        examples = None

        def inputs():
            for batch in batches.padded_batches(split, self._config.eval.batch_size):
                # An example's random start goes by its index in the whole split, so a subset gives the same verdicts.
                yield batch, parallel.shard((batch["images"], batch["labels"], index[batch["ids"]]), self._mesh)

        def outputs():
            for batch, arrays in streaming.prefetch(inputs(), BATCHES_AHEAD):
                yield batch, self._steps[spec.name](weights, *arrays, self._key)

        with console.progress(title, len(split), "images") as advance:
            for batch, output in parallel.one_behind(outputs()):
                if not output["finite"]:
                    raise UserError(f"{title}: the model's logits are not finite numbers, so nothing can be scored")
                excess = float(output["excess"])
                if not excess <= LARGEST_EXCESS:  # true for NaN too
                    raise AssertionError(f"{spec.name} left the allowed perturbations by {excess}: a defect, report it")
                real = batch["mask"]
                predictions[batch["ids"][real]] = np.asarray(output["prediction"])[real]
                if examples is None:
                    examples = parallel.first(output["adversarial"], min(EXAMPLE_IMAGES, len(split)), self._mesh)
                advance(int(real.sum()))
                # After the last batch it is better to keep the result; the next attack stops at its first.
                if self._stop and batch["ids"].max() < len(split) - 1:
                    raise Interrupted(
                        self._stop.signal_number,
                        f"stopped in {title}, finished attacks are kept; run again to continue",
                    )
        return predictions, examples

    def _mark_best(self):
        trained = config_lib.from_dict(files.read_json(self._workdir / "config.json"))
        best = results.find_best(
            results.read(self._workdir),
            attack=config_lib.best_attack(trained),
            criterion=trained.checkpoint.best,
        )
        if best is not None:
            files.write_atomically(self._workdir / results.BEST, files.to_json(best))


def evaluate_checkpoints(workdir, overrides: dict | None = None, *, follow: bool = False) -> None:
    """Score every checkpoint in the workdir that is not scored yet, by the run's own config.

    Args:
        overrides: fields to set otherwise, by dotted name; `OWN_FIELDS` alone may differ from the run's.
        follow: wait for new checkpoints until the training's last one is scored.

    Raises:
        UserError: there is no run in the workdir, or it is one of another config.
        Interrupted: by a signal. What was scored is kept.
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

        if follow:
            console.say(f"waiting for checkpoints in {workdir}, to the end of the training")
        while (stored := hosts.decide(lambda: files.read_json(workdir / "config.json"))) is None:
            if not follow:
                raise UserError(f"workdir = {str(workdir)!r}: holds no run; train first, or give the run's --workdir")
            wait()
        hosts.check_shared(workdir)
        config = config_lib.from_dict(stored)
        config.update_from_flattened_dict(overrides or {})
        check_same_config(workdir, config, stored, may_differ=OWN_FIELDS)
        mesh = parallel.make_mesh()
        config_lib.validate(config, mesh.size, training=False)

        dataset = build.dataset(config)
        hosts.check_alike(dataset.fingerprint(), "give all processes the same data")
        steps_per_epoch = batches.steps_per_epoch(len(dataset.train), config.train.batch_size)
        like = build.abstract_state(config, dataset, mesh, steps_per_epoch * config.train.epochs)
        checkpoints = checkpoints_lib.Checkpoints(workdir, read_only=True)

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
        raise UserError(f"workdir = {str(workdir)!r}: holds no whole checkpoint to score yet; --follow waits for one")
    finish(workdir)


def check_same_config(workdir, config, stored: dict, may_differ: tuple[str, ...]) -> None:
    """Refuse a workdir that holds a run of another config.

    Raises:
        UserError: names the fields that differ.
    """
    # A field that came into being after the run was made has the default there.
    stored = config_lib.to_dict(config_lib.from_dict(stored))
    differences = config_lib.differences(stored, config_lib.to_dict(config))
    wrong = [f"{name} = {new!r}, there {old!r}" for name, (old, new) in differences.items() if name not in may_differ]
    if wrong:
        raise UserError(
            f"workdir = {str(workdir)!r}: holds a run of another config ({'; '.join(wrong)}); "
            "give another --workdir, or the same config"
        )


def finish(workdir) -> None:
    """Write the report and show the per-class table of the selected checkpoint."""
    if not parallel.is_writer():
        return
    if not results.read(workdir):
        console.say(f"nothing is evaluated yet: python -m jaxrobust.main --mode evaluate --workdir {workdir}")
        return
    path = report.write_report(workdir)
    title, table = report.class_table(workdir)
    console.say(title)
    console.show(table)
    console.say(f"report: {path}")


def _one_line(title, records, attacks) -> str:
    parts = [
        f"{name} {100 * records[name]['accuracy']:.1f} (worst: {records[name]['worst_class']} "
        f"{100 * records[name]['worst_class_accuracy']:.1f})"
        for name in attacks
    ]
    return f"{title}: {', '.join(parts)}"
