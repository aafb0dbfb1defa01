"""Training: the loop, top to bottom."""

import math
import pathlib
import tempfile
import time

import jax
import numpy as np

from jaxrobust import build, console, evaluate, files, parallel, remedies, results, train_state
from jaxrobust import checkpoints as checkpoints_lib
from jaxrobust import config as config_lib
from jaxrobust.data import batches
from jaxrobust.errors import FieldError
from jaxrobust.interruption import Interrupted, StopRequest
from jaxrobust.writers import Writer

# A resumed run may read the same data from elsewhere; everything else is part of what it computes.
MAY_DIFFER = ("data.data_dir",)


class Diverged(Exception):
    """The loss is no longer a finite number."""


def train_and_evaluate(config, workdir) -> None:
    """Train, checkpoint, evaluate each checkpoint; continue what the workdir holds of the same config.

    Raises:
        UserError: wrong config, data or workdir; nothing is compiled before all of it is checked.
        Diverged: the loss is not finite. The last good checkpoint is kept.
        Interrupted: by SIGTERM or Ctrl-C, after saving. The same command continues.
    """
    # Check and load.
    mesh = parallel.make_mesh()
    config_lib.validate(config, mesh.size)
    workdir = pathlib.Path(workdir)
    _check_workdir(workdir, config)
    dataset = build.dataset(config)
    num_classes = dataset.num_classes
    num_train = len(dataset.train.labels)
    steps_per_epoch = batches.steps_per_epoch(num_train, config.train.batch_size)
    total_steps = steps_per_epoch * config.train.epochs
    state = build.initial_state(config, dataset, mesh, total_steps)
    if parallel.is_writer():
        files.write_atomically(workdir / "config.json", files.to_json(config_lib.to_dict(config)))

    # Compile lazily, keep the training set on the devices.
    train_step = build.train_step(config, num_classes, mesh, total_steps)
    end_epoch = _make_end_epoch(remedies.create(config.remedy.name), num_classes, mesh)
    learning_rate = build.schedule(config, total_steps)
    images, labels = parallel.replicate((dataset.train.images, dataset.train.labels), mesh)
    key = jax.random.fold_in(jax.random.key(config.train.seed), 1)  # 0 would be that of the initial weights

    def checkpoint_due(epoch):
        return epoch % config.checkpoint.every_epochs == 0 or epoch == config.train.epochs

    def evaluation_due(epoch):
        every = config.eval.every_epochs
        return every > 0 and (epoch % every == 0 or epoch == config.train.epochs)

    checkpoints = checkpoints_lib.Checkpoints(workdir, preserve=_preserve(config, workdir, steps_per_epoch))
    with StopRequest() as stop, Writer(workdir) as writer:
        evaluator = evaluate.Evaluator(config, workdir, dataset, mesh, writer, stop)

        # Continue from the newest whole checkpoint, and score what an interruption left unscored.
        restored = checkpoints.restore_latest(state)
        if restored is None:
            writer.start(config_lib.flatten(config_lib.to_dict(config)), state.weights.params)
        else:
            state = restored
            console.say(f"continuing at step {int(state.step)} of {total_steps}")
            evaluate.evaluate_missing(evaluator, checkpoints, state, steps_per_epoch, evaluation_due)

        def save_and_stop(step):
            checkpoints.save(step, state)
            checkpoints.wait()
            return Interrupted(stop.signal_number, f"saved step {step} of {total_steps}; the same command continues")

        step = int(state.step)
        for epoch in range(step // steps_per_epoch, config.train.epochs):
            # One epoch. The loss of a step is looked at while the next one runs, so the device never waits.
            order = batches.epoch_order(
                dataset.train.labels,
                batch_size=config.train.batch_size,
                seed=config.train.seed,
                epoch=epoch,
                sampling=np.asarray(state.knobs.sampling),
            )
            started, first, losses = time.monotonic(), step, {}
            title = f"epoch {epoch + 1}/{config.train.epochs}"
            with console.progress(
                f"training, {title}", total_steps * config.train.batch_size, "images", step * config.train.batch_size
            ) as advance:
                for indices in order[step % steps_per_epoch :]:
                    state, losses[step + 1] = train_step(state, images, labels, parallel.shard(indices, mesh), key)
                    step += 1
                    if step > first + 1:
                        _log_loss(step - 1, losses, writer, learning_rate, config.train.log_every_steps)
                    advance(config.train.batch_size)
                    if stop:
                        break
            _log_loss(step, losses, writer, learning_rate, config.train.log_every_steps)
            if step % steps_per_epoch:
                raise save_and_stop(step)

            # Close the epoch: what the classes did goes to the log and to the remedy.
            seconds = time.monotonic() - started
            sums = jax.device_get(state.class_sums)
            state = end_epoch(state)
            record = _training_record(epoch + 1, step, sums, learning_rate, seconds, step - first, config)
            if parallel.is_writer():
                results.append_training(workdir, record)
            writer.training(record, dataset.class_names)
            console.say(
                f"{title}: loss {record['loss']:.4f}, training accuracy {100 * record['accuracy']:.1f}, "
                f"{record['images_per_second']:,.0f} images/s"
            )

            # Checkpoint and evaluate.
            if checkpoint_due(epoch + 1):
                checkpoints.save(step, state)
            if evaluation_due(epoch + 1):
                checkpoints.wait()  # results are of checkpoints that exist
                evaluator.evaluate(state, step, epoch + 1)
            if stop:
                raise save_and_stop(step)
        checkpoints.close()
    evaluate.finish(workdir)


def _check_workdir(workdir, config) -> None:
    """Create the workdir where there is none; refuse one that cannot be written or holds another config's run."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise FieldError(
            "workdir", str(workdir), f"cannot be written ({error.strerror})", "give another --workdir"
        ) from error
    stored = files.read_json(workdir / "config.json")
    if stored is not None:
        evaluate.check_same_config(workdir, config, stored, MAY_DIFFER)


def _preserve(config, workdir, steps_per_epoch):
    """Which checkpoints to keep: the newest `checkpoint.keep` of whole epochs (0: all) and the best."""

    def preserve(steps):
        whole = [step for step in steps if step % steps_per_epoch == 0]
        best = files.read_json(workdir / results.BEST)
        newest = whole[-config.checkpoint.keep :]  # all for keep = 0
        return {*newest, *([best["step"]] if best else [])}

    return preserve


def _make_end_epoch(remedy: remedies.Remedy, num_classes: int, mesh):
    """The compiled function that lets the remedy observe the epoch's class sums, and starts new ones."""

    def end_epoch(state):
        knobs, memory = remedy.observe(state.knobs, state.memory, state.class_sums)
        return state.replace(knobs=knobs, memory=memory, class_sums=train_state.zero_sums(num_classes))

    return parallel.spmd(end_epoch, mesh, in_specs=parallel.REPLICATED, out_specs=parallel.REPLICATED)


def _log_loss(step, losses, writer, learning_rate, every_steps) -> None:
    """Check the loss of a step, and write it every so many steps."""
    loss = float(losses.pop(step))
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} at step {step}; the last checkpoint before it is kept: lower "
            "optimizer.learning_rate, or set optimizer.clip_norm"
        )
    if step % every_steps == 0:
        writer.scalars(step, {"train/loss": loss, "train/learning_rate": float(learning_rate(step - 1))})


def _training_record(epoch, step, sums, learning_rate, seconds, steps, config) -> dict:
    """An epoch's line in training.jsonl. Accuracy is on the images trained on: adversarial ones, where there are."""
    seen = np.maximum(sums.count, 1)
    return {
        "epoch": epoch,
        "step": step,
        "loss": float(sums.loss.sum() / sums.count.sum()),
        "learning_rate": float(learning_rate(step - 1)),
        "accuracy": float(sums.correct.sum() / sums.count.sum()),
        "train_class_accuracy": (sums.correct / seen).tolist(),
        "train_class_loss": (sums.loss / seen).tolist(),
        "train_class_count": sums.count.tolist(),
        "images_per_second": steps * config.train.batch_size / seconds,
    }
