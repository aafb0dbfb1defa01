"""Training: the loop, top to bottom."""

import contextlib
import math
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import config as config_lib
from jaxrobust import console, files, remedies
from jaxrobust.config import objects, validation
from jaxrobust.data import batches, randomness
from jaxrobust.distributed import hosts, parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import evaluator as evaluator_lib
from jaxrobust.evaluation import loading
from jaxrobust.remedies import knobs as knobs_lib
from jaxrobust.runs import checkpoints as checkpoints_lib
from jaxrobust.runs import results
from jaxrobust.runs.tensorboard import Writer
from jaxrobust.training import input_pipeline, overfitting
from jaxrobust.training import setup as training_setup
from jaxrobust.training import state as state_lib

# Fields in which a resumed run may differ: none of them changes the weights, other than by rounding.
MAY_DIFFER = (
    "data.data_dir",
    "train.log_every_steps",
    "train.overfitting_check",
    "train.steps_per_dispatch",
    "eval.batch_size",
    "eval.every_epochs",
    "checkpoint.keep",
    *config_lib.AUDIT_FIELDS,
    *config_lib.POSTHOC_FIELDS,
)


class Diverged(Exception):
    """The loss, a weight or a logit is no longer a finite number."""


class InUse(UserError):
    """Another training is running in the workdir."""


def train_and_evaluate(config, workdir) -> None:
    """Train, checkpoint, evaluate each checkpoint; continue what the workdir holds of the same config.

    Raises:
        UserError: wrong config, data or workdir; nothing is compiled before all of it is checked.
        Diverged: the loss, a weight or a logit is not finite. The last good checkpoint is kept.
        Interrupted: by SIGTERM or Ctrl-C, after saving. The same command continues.
    """
    mesh = parallel.make_mesh()
    validation.validate(config, mesh.size)
    workdir = pathlib.Path(workdir)
    if parallel.is_writer():
        _check_workdir(workdir, config)
    hosts.check_shared(workdir)
    with _only_trainer(workdir):
        _train_and_evaluate(config, workdir, mesh)


def _train_and_evaluate(config, workdir, mesh):
    # Load.
    dataset = objects.dataset(config)
    hosts.check_alike(dataset.fingerprint(), "give all processes the same data")
    validation.check_radius(config, dataset.image_shape)
    num_train, batch_size, epochs = len(dataset.train), config.train.batch_size, config.train.epochs
    steps_per_epoch = batches.steps_per_epoch(num_train, batch_size)
    total_steps = steps_per_epoch * epochs
    like = training_setup.abstract_state(config, dataset, mesh, total_steps)
    if parallel.is_writer() and not (workdir / "config.json").exists():
        results.CONFIG.write(workdir, config_lib.to_dict(config))

    # Everything is compiled when it is first called.
    train_steps, inputs = input_pipeline.create(config, dataset, mesh, total_steps)
    remedy = objects.remedy(config)
    if parallel.is_writer():
        of, counts = config.remedy, dataset.train.counts(dataset.num_classes)
        for line in remedies.without_effect(of.name, remedy, of.counts, of.observe, counts):
            console.warn(line)
    end_epoch = _make_end_epoch(remedy, config.remedy.observe, mesh)
    observer = training_setup.observer(config, dataset, mesh) if training_setup.looks_at_validation(config) else None
    overfitting_check = training_setup.overfitting_check(config, dataset, mesh)
    learning_rates = training_setup.learning_rates(config, total_steps)
    key = randomness.key(config.train.seed, randomness.Purpose.TRAINING)

    def evaluation_due(epoch):
        every = config.eval.every_epochs
        return every > 0 and (epoch % every == 0 or epoch == epochs)

    checkpoints = checkpoints_lib.Checkpoints(workdir, preserve=_preserve(config, workdir, steps_per_epoch))
    hosts.before_death(checkpoints.wait)
    with StopRequest() as stop, Writer(workdir) as writer, contextlib.closing(checkpoints):
        evaluator = evaluator_lib.Evaluator(config, workdir, dataset, mesh, writer, stop)

        # Continue from the newest checkpoint, and score what an interruption left unscored.
        state = checkpoints.restore_latest(like)
        if state is None:
            state = training_setup.initial_state(config, dataset, mesh, total_steps)
            if config.train.start_from:
                weights = loading.load_weights(config.train.start_from, config, dataset, mesh)
                state = state.replace(weights=weights, averaged=state.averaged and jax.tree.map(jnp.copy, weights))
            writer.start(files.flatten(config_lib.to_dict(config)), state.weights.params)
        else:
            console.say(f"continuing at step {int(state.step)} of {total_steps}")
            evaluator.evaluate_missing(checkpoints, like, steps_per_epoch, evaluation_due)

        def log_loss(step, loss):
            if not math.isfinite(loss):
                raise _diverged(config, f"the loss is {loss}", step)
            if step % config.train.log_every_steps == 0:
                writer.scalars(step, {"train/loss": loss, "train/learning_rate": float(learning_rates[step - 1])})

        def save(step):
            # The loss was computed before the last update. What cannot go on must not take the place of what can.
            if not (_is_finite(state.weights) and evaluator.is_finite(state.weights, dataset.train)):
                raise _diverged(config, "the weights or their logits are no longer finite numbers", step)
            checkpoints.save(step, state)

        def save_and_stop(step):
            save(step)
            checkpoints.wait()
            raise Interrupted(stop.signal_number, f"saved step {step} of {total_steps}; the same command continues")

        step = int(state.step)
        for epoch in range(step // steps_per_epoch, epochs):
            # Train for an epoch, or for what is left of it.
            order = batches.epoch_order(
                dataset.train.labels,
                batch_size=batch_size,
                seed=config.train.seed,
                epoch=epoch,
                sampling=np.asarray(state.knobs.sampling),
            )[step % steps_per_epoch :]
            title = f"epoch {epoch + 1}/{epochs}"
            started, before = time.monotonic(), step
            with console.progress(
                f"training, {title}", total_steps * batch_size, "images", step * batch_size
            ) as advance:
                state, step = update(
                    state,
                    step,
                    train_steps,
                    inputs(order, step),
                    key,
                    log_loss,
                    lambda n: advance(n * batch_size),
                    stop,
                )
            images_per_second = (step - before) * batch_size / (time.monotonic() - started)
            if step % steps_per_epoch:
                save_and_stop(step)

            # Close it: what the classes did goes to the log and to the remedy.
            sums, knobs = jax.device_get((state.class_sums, state.knobs))
            state = end_epoch(state, observer(state.weights) if observer else None)
            record = _training_record(epoch + 1, step, sums, knobs, float(learning_rates[step - 1]), images_per_second)
            if overfitting_check is not None:
                single_step, pgd = overfitting_check(state)
                record |= {"single_step_check_accuracy": single_step, "pgd_check_accuracy": pgd}
            if parallel.is_writer():
                console.say(_one_line(title, record))
                if overfitting_check is not None:
                    _judge_overfitting(workdir, record, overfitting_check.examples)
                results.append_training(workdir, record)
            writer.training(record, dataset.class_names)

            # Checkpoint and evaluate.
            if config_lib.checkpoint_due(config, epoch + 1):
                save(step)
            if evaluation_due(epoch + 1):
                checkpoints.wait()  # results are of checkpoints that exist
                evaluator.evaluate(state, step, epoch + 1)
            if stop and epoch + 1 < epochs:
                save_and_stop(step)


def update(state, step, train_steps, inputs, key, log_loss, advance, stop):
    """Updates with all inputs, or with fewer if `stop` is set: the new state and step.

    The losses of a dispatch are looked at when the next one has been started, so that the device never waits for the
    host.
    """

    def dispatches():
        nonlocal state, step
        for length, arguments in inputs:
            state, losses = train_steps(state, *arguments, key)
            first, step = step + 1, step + length
            yield first, losses
            if stop:
                return

    for first, losses in parallel.one_behind(dispatches()):
        losses = np.atleast_1d(losses)
        for done, loss in enumerate(losses, start=first):
            log_loss(done, float(loss))
        advance(len(losses))
    return state, step


def _check_workdir(workdir, config) -> None:
    """Create the workdir where there is none; refuse one that cannot be written or holds another config's run."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise FieldError(
            "workdir", str(workdir), f"cannot be written ({error.strerror})", "give another --workdir"
        ) from error
    stored = results.CONFIG.read(workdir)
    if stored is not None:
        loading.check_same_config(workdir, config, stored, MAY_DIFFER)


@contextlib.contextmanager
def _only_trainer(workdir):
    """Hold the workdir against a second training, such as a scheduler's restart of a job that still runs.

    Raises:
        InUse: there is another one.
    """
    if not parallel.is_writer():
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(workdir / ".training", wait=False))
        except BlockingIOError as error:
            raise InUse(
                f"workdir = {str(workdir)!r}: another training is running there; wait for it, or give another --workdir"
            ) from error
        yield


def _preserve(config, workdir, steps_per_epoch):
    """Which checkpoints to keep: of those that are due, the newest `checkpoint.keep` (0: all), and the best.

    Others were saved because the run was asked to stop.
    """

    def preserve(steps):
        due = [s for s in steps if s % steps_per_epoch == 0 and config_lib.checkpoint_due(config, s // steps_per_epoch)]
        best = results.BEST.read(workdir)
        newest = due[-config.checkpoint.keep :]  # all for keep = 0
        return {*newest, *([best["step"]] if best else [])}

    return preserve


def _make_end_epoch(remedy: remedies.Remedy, observe: str, mesh):
    """The compiled function that lets the remedy see how the classes did, and starts new sums.

    (state, statistics of the validation split, None where nobody looks at them) -> state
    """

    def end_epoch(state, validation):
        observed = validation if observe == "validation" and validation is not None else state.class_sums
        knobs, memory = remedy.observe(state.knobs, state.memory, observed)
        averaged = state.averaged
        if remedy.average:
            decay, memory = remedy.average(memory, validation)
            averaged = state_lib.blend(averaged, state.weights, decay)
        return state.replace(
            knobs=knobs, memory=memory, averaged=averaged, class_sums=jax.tree.map(jnp.zeros_like, state.class_sums)
        )

    whole = parallel.REPLICATED
    return parallel.spmd(end_epoch, mesh, in_specs=(whole, whole), out_specs=whole, donate=(0,))


@jax.jit
def _is_finite(tree):
    """Whether all numbers in all arrays are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _diverged(config, what: str, step: int) -> Diverged:
    name = config.remedy.name
    of_remedy = f", or mend the settings of remedy.name = {name!r}" if name != "none" else ""
    return Diverged(
        f"{what} after step {step}; the last checkpoint before it is kept: "
        f"lower optimizer.learning_rate, or set optimizer.clip_norm{of_remedy}, and train in another --workdir"
    )


def _training_record(epoch, step, sums, knobs, learning_rate, images_per_second) -> dict:
    """An epoch's line in training.jsonl. Accuracy is on the images trained on: adversarial ones, where there are.

    Knobs are those in force in the epoch, by name, of those that are turned.
    """
    counts = sums["count"].tolist()

    def by_class(total):
        """Means; None for a class that no image was drawn of."""
        return [value / n if n else None for value, n in zip(total.tolist(), counts, strict=True)]

    return {
        "epoch": epoch,
        "step": step,
        "loss": float(sums["loss"].sum() / sums["count"].sum()),
        "learning_rate": learning_rate,
        "accuracy": float(sums["correct"].sum() / sums["count"].sum()),
        "train_class_accuracy": by_class(sums["correct"]),
        "train_class_loss": by_class(sums["loss"]),
        "train_class_count": counts,
        "images_per_second": images_per_second,
        "knobs": {name: values.tolist() for name, values in knobs_lib.turned(knobs).items()},
    }


def _one_line(title, record) -> str:
    check = record.get("pgd_check_accuracy")
    return (
        f"{title}: loss {record['loss']:.4f}, training accuracy {100 * record['accuracy']:.1f}, "
        + (f"under PGD about {100 * check:.0f}, " if check is not None else "")
        + f"{record['images_per_second']:,.0f} images/s"
    )


def _judge_overfitting(workdir, record: dict, examples: int) -> None:
    """Add to the epoch's line whether it shows catastrophic overfitting, and warn when it comes."""
    # From the file, so that a resumed run knows what was before.
    before = [line for line in results.read_training(workdir) if line["epoch"] < record["epoch"]]
    earlier = [line["pgd_check_accuracy"] for line in before if "pgd_check_accuracy" in line]
    found = record["single_step_check_accuracy"], record["pgd_check_accuracy"], earlier, examples
    record["catastrophic_overfitting"] = overfitting.has_happened(*found)
    if record["catastrophic_overfitting"] and not (before and before[-1].get("catastrophic_overfitting")):
        console.warn(f"epoch {record['epoch']}: {overfitting.message(*found)}")
