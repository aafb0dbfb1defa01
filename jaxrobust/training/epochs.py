"""The epochs of a training. Nothing here knows files: who calls decides what becomes of each epoch's results."""

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import console
from jaxrobust.data import batches, randomness
from jaxrobust.distributed import parallel
from jaxrobust.remedies import knobs as knobs_lib
from jaxrobust.training import input_pipeline, overfitting
from jaxrobust.training.state import TrainState
from jaxrobust.training.training import Training


class Diverged(Exception):
    """The loss, a weight or a logit is no longer a finite number."""


class Epoch(NamedTuple):
    """What epoch `number`, from 1, has led to: batches trained on so far, the `state`, valid until the next epoch is
    asked for, its `record` (None where the training was stopped within the epoch), and a `warning` for the user, as a
    sentence.
    """

    number: int
    step: int
    state: TrainState
    record: dict | None
    warning: str | None = None


def prepare(training: Training) -> Callable[..., Iterator[Epoch]]:
    """Place the data on the devices and check what can be: the function that trains epoch by epoch.

    Returns:
        epochs(state, log, stop, progress, earlier) -> the epochs that are left. log(step, loss, learning_rate) is
        called after each step; once `stop` is true, the next dispatch is the last; `progress` is console.progress or
        the like; `earlier` are the records of epochs before.

    Raises:
        FieldError: the remedy needs validation images of each class, and there are none.
    """
    data, seed, batch_size = training.data, training.seed, training.batch_size
    steps_per_epoch, total_steps = training.steps_per_epoch, training.total_steps
    train_steps, inputs = input_pipeline.create(training)
    end_epoch, observer, check = training.end_of_epoch(), training.observer(), training.overfitting_check()
    learning_rates = training.learning_rates
    key = randomness.key(seed, randomness.Purpose.TRAINING)

    def epochs(
        state: TrainState, *, log=lambda *_: None, stop=False, progress=console.progress, earlier=()
    ) -> Iterator[Epoch]:
        def log_loss(step, loss):
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} after step {step}")
            log(step, loss, float(learning_rates[step - 1]))

        step, earlier = int(state.step), list(earlier)
        for epoch in range(step // steps_per_epoch, training.epochs):
            sampling, started, before = np.asarray(state.knobs.sampling), time.monotonic(), step
            order = batches.epoch_order(
                data.train.labels, batch_size=batch_size, seed=seed, epoch=epoch, sampling=sampling
            )[step % steps_per_epoch :]
            title = f"training, epoch {epoch + 1}/{training.epochs}"
            with progress(title, total_steps * batch_size, "images", step * batch_size) as advance:
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
                yield Epoch(epoch + 1, step, state, None)
                return

            # What the classes did goes to the record and to the remedy.
            sums, knobs = jax.device_get((state.class_sums, state.knobs))
            state = end_epoch(state, observer(state.weights) if observer else None)
            record = _record(epoch + 1, step, sums, knobs, float(learning_rates[step - 1]), images_per_second)
            warning = overfitting.add_check(record, check(state), earlier, check.examples) if check else None
            earlier.append(record)
            yield Epoch(epoch + 1, step, state, record, warning)

    return epochs


def update(state, step, train_steps, inputs, key, log_loss, advance, stop):
    """Updates with all inputs, or with fewer if `stop` is set: the new state and step. The losses of a dispatch are
    looked at when the next one has been started, so that the device never waits for the host.
    """

    def dispatches():
        nonlocal state, step
        for length, arguments in inputs:
            with jax.transfer_guard_host_to_device("disallow"):  # all inputs are on the devices, put there explicitly
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


@jax.jit
def is_finite(tree):
    """Whether all numbers in all arrays are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _record(epoch, step, sums, knobs, learning_rate, images_per_second) -> dict:
    """An epoch's line in training.jsonl: accuracy on the images trained on, adversarial ones where there are, and the
    knobs in force in the epoch that are not neutral, by name."""
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
