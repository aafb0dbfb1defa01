"""A training in a workdir: it is saved, evaluated and continued there."""

import contextlib
import pathlib

import jax
import jax.numpy as jnp

from jaxrobust import config as config_lib, console, files, remedies
from jaxrobust.config import objects, validation
from jaxrobust.distributed import hosts, parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import FieldError
from jaxrobust.evaluation import evaluator as evaluator_lib, loading
from jaxrobust.runs import checkpoints as checkpoints_lib, history, results
from jaxrobust.runs.tensorboard import Writer
from jaxrobust.training import epochs as epochs_lib, setup as training_setup
from jaxrobust.training.epochs import Diverged
from jaxrobust.training.state import TrainState
from jaxrobust.training.training import Training

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


class InUse(FieldError):
    """Another training is running in the workdir."""


def train_and_evaluate(config, workdir) -> None:
    """Train, checkpoint, evaluate each checkpoint; continue what the workdir holds of the same config.

    Raises:
        UserError: wrong config, data or workdir; nothing is compiled before all of it is checked.
        Diverged: the loss, a weight or a logit is not finite. The last good checkpoint, if there is one, is kept.
        NotWritten: the disk is full, for example. The last complete checkpoint, if there is one, is kept.
        Interrupted: by SIGTERM or Ctrl-C, after saving. The same command continues.
    """
    mesh = parallel.make_mesh()
    validation.validate(config, mesh.size)
    with training_in(workdir, config):
        dataset = objects.dataset(config)
        hosts.check_alike(dataset.fingerprint(), "give all processes the same data")
        validation.check_images(config, dataset.image_shape)
        training = training_setup.create(config, dataset, mesh)
        try:
            run(training, config, pathlib.Path(workdir))
        except Diverged as error:
            name = config.remedy.name
            of_remedy = f", or mend the settings of remedy.name = {name!r}" if name != "none" else ""
            raise Diverged(
                f"{error}: lower optimizer.learning_rate, or set optimizer.clip_norm{of_remedy}, and train in another "
                "workdir"
            ) from error


def run(training: Training, config, workdir: pathlib.Path) -> TrainState:
    """Train in a workdir that has been entered by `training_in`; returns the last state.

    The config is of what is logged, saved and evaluated; it is written to the workdir.
    """
    steps_per_epoch, total_steps, dataset = training.steps_per_epoch, training.total_steps, training.data
    like = training.abstract_state()
    if parallel.is_writer() and not (workdir / "config.json").exists():
        results.DATA.write(workdir, dataset.counts())
        results.CONFIG.write(workdir, config_lib.to_dict(config))  # last, so that it proves that the other is there
    # Everything is compiled when it is first called.
    epochs = epochs_lib.prepare(training)
    if parallel.is_writer():
        of, counts = config.remedy, dataset.train.counts(dataset.num_classes)
        no_effect = remedies.without_effect(of.name, training.remedy, of.counts, of.observe, counts)
        for line in [*validation.doubts(config), *no_effect]:
            console.warn(line)

    def evaluation_due(epoch):
        every = config.eval.every_epochs
        return every > 0 and (epoch % every == 0 or epoch == training.epochs)

    checkpoints = checkpoints_lib.Checkpoints(workdir, preserve=_preserve(config, workdir, steps_per_epoch))
    with (
        StopRequest() as stop,
        Writer(workdir) as writer,
        contextlib.closing(checkpoints),
        _saying_what_is_kept(checkpoints),
    ):
        evaluator = evaluator_lib.Evaluator(
            config, workdir, dataset, training.classifier(config.eval.seed), writer, stop, like.weights
        )

        # Continue from the newest checkpoint, and score what an interruption left unscored.
        state = checkpoints.restore_latest(like)
        step = 0 if state is None else int(state.step)
        hosts.decide(lambda: _drop_later(workdir, step))
        if state is None:
            state = training.initial_state()
            if config.train.start_from:
                weights = loading.load_weights(config.train.start_from, config, dataset, training.mesh)
                state = state.replace(weights=weights, averaged=state.averaged and jax.tree.map(jnp.copy, weights))
            writer.continue_after(-1)  # where a kill came before the first checkpoint
            writer.start(files.flatten(config_lib.to_dict(config)), state.weights.params)
        else:
            console.say(f"continuing at step {step} of {total_steps}")
            if step < total_steps:
                writer.continue_after(step)
            evaluator.evaluate_missing(checkpoints, steps_per_epoch, evaluation_due)

        read_back = checkpoints.steps()  # the first is, lest nobody can read any of them in the end

        def log(step, loss, learning_rate):
            if step % config.train.log_every_steps == 0:
                writer.scalars(step, {"train/loss": loss, "train/learning_rate": learning_rate})

        def save(step, state):
            # The loss was computed before the last update. What cannot go on must not take the place of what can.
            if not (epochs_lib.is_finite(state.weights) and evaluator.is_finite(state.weights, dataset.train)):
                raise Diverged(f"the weights or their logits are no longer finite numbers after step {step}")
            checkpoints.save(step, state)
            if not read_back:
                checkpoints.check_readable(step, like)
                read_back.append(step)

        def save_and_stop(step, state):
            save(step, state)
            checkpoints.wait()
            raise Interrupted(stop.signal_number, f"saved step {step} of {total_steps}; the same command continues")

        # From the file, so that a resumed run knows what was before.
        earlier = results.read_training(workdir) if parallel.is_writer() else []
        left = epochs(state, log=log, stop=stop, earlier=earlier)
        for epoch, step, state, record, warning in left:
            if record is None:
                save_and_stop(step, state)
            if parallel.is_writer():
                console.say(_one_line(f"epoch {epoch}/{training.epochs}", record))
                if warning:
                    console.warn(f"epoch {epoch}: {warning}")
                results.append_training(workdir, record)
            writer.training(record, dataset.class_names)
            if config_lib.checkpoint_due(config, epoch):
                save(step, state)
            if evaluation_due(epoch):
                checkpoints.wait()  # results are of checkpoints that exist
                by_name = {"raw": state.weights, "averaged": state.averaged}
                evaluator.evaluate({name: w for name, w in by_name.items() if w is not None}, step, epoch)
            if stop and epoch < training.epochs:
                save_and_stop(step, state)
        return state


def _drop_later(workdir, step: int) -> None:
    """Drop what is of later steps than the one to go on from, and say so. Raises FieldError if that were everything."""
    there = [name for name in (results.RESULTS, results.ORIGIN) if (workdir / name).exists()]
    if step == 0 and there:
        problem = f"has {' and '.join(there)}, and no checkpoint to go on from"
        remedy = "put the checkpoints back, or give another folder to train anew"
        raise FieldError("workdir", str(workdir), problem, remedy)
    if dropped := history.drop_after(workdir, step):
        console.say(f"dropped, to be made again, what is of steps after {step}: {dropped}")


@contextlib.contextmanager
def _saying_what_is_kept(checkpoints):
    """Let Diverged name the last checkpoint, if there is one."""
    try:
        yield
    except Diverged as error:
        checkpoints.wait()
        steps = checkpoints.steps()
        kept = f"; the last checkpoint before it, of step {steps[-1]}, is kept" if steps else ""
        raise Diverged(f"{error}{kept}") from error


@contextlib.contextmanager
def training_in(workdir, config):
    """Create the workdir where there is none, and hold it against a second training.

    Raises FieldError if no checkpoint can be kept there or it holds another config's run, NotWritten, and InUse if
    there is another training, such as that of a job which the scheduler has restarted.
    """
    workdir = files.folder(workdir, "workdir")
    checkpoints_lib.check_path(workdir)
    if parallel.is_writer():
        with files.writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        stored = history.read_config(workdir)
        if stored is not None:
            loading.check_same_config(workdir, config, stored, MAY_DIFFER)
    hosts.check_shared(workdir)
    with contextlib.ExitStack() as stack:
        if parallel.is_writer():
            try:
                stack.enter_context(files.locked(workdir / history.TRAINING_LOCK, wait=False))
            except BlockingIOError as error:
                problem = "another training is running there"
                raise InUse("workdir", str(workdir), problem, "wait for it, or give another one") from error
            history.clean(workdir)
        yield


def _preserve(config, workdir, steps_per_epoch):
    """Which checkpoints to keep: of those that are due, the newest `checkpoint.keep` (0: all), and the best."""

    def preserve(steps):  # those not due were saved because the run was asked to stop
        due = [s for s in steps if s % steps_per_epoch == 0 and config_lib.checkpoint_due(config, s // steps_per_epoch)]
        best = results.BEST.read(workdir)
        newest = due[-config.checkpoint.keep :]  # all for keep = 0
        return {*newest, *([best["step"]] if best else [])}

    return preserve


def _one_line(title, record) -> str:
    check = record.get("pgd_check_accuracy")
    return (
        f"{title}: loss {record['loss']:.4f}, training accuracy {100 * record['accuracy']:.1f}, "
        + (f"under PGD about {100 * check:.0f}, " if check is not None else "")
        + ("catastrophically overfitted, " if record.get("catastrophic_overfitting") else "")
        + f"{record['images_per_second']:,.0f} images/s"
    )
