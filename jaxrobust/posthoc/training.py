"""Heads trained once more on adversarial images, all classes alike, the rest of the model as it is (Kang et al. 2020).

    crt    classifier re-training: a new head
    lws    learnable weight scaling: a factor on each class's logits, 1 at first

The updates are those of a training, by its train step, attack and augmentation; the attack sees the head as it is then.
Batch norm goes by its running statistics throughout, and only the head, or its factors, move.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

from jaxrobust import console, data
from jaxrobust.config import objects
from jaxrobust.data import batches, randomness
from jaxrobust.distributed import parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import FieldError
from jaxrobust.models.weights import Weights
from jaxrobust.posthoc.heads import Head
from jaxrobust.remedies import knobs, long_tail
from jaxrobust.training import class_statistics, epochs, input_pipeline, optimizers, setup as training_setup
from jaxrobust.training.state import TrainState

FACTORS = "head_factors"  # of lws, beside the model's own parameters


class FrozenModel(NamedTuple):
    """A model whose head alone is trained, in the place of a model in step.make_train_step; `deploy` makes its
    parameters of those that are trained, and others.
    """

    model: object
    deploy: Callable

    def apply(self, variables, images, train: bool = False, mutable=False, rngs=None):
        """As of a Flax module; batch statistics are neither used nor changed by `train`, and nothing is drawn."""
        variables = variables | {"params": self.deploy(variables["params"])}
        if train:
            return self.model.apply(variables, images, train=False), {}
        return self.model.apply(variables, images, train=False, mutable=mutable)


def deploy_crt(params: dict) -> dict:
    """Gradients reach the head alone."""
    return {name: tree if name == "head" else jax.lax.stop_gradient(tree) for name, tree in params.items()}


def deploy_lws(params: dict) -> dict:
    """Factors put into the head; gradients reach them alone."""
    model = {name: jax.lax.stop_gradient(tree) for name, tree in params.items() if name != FACTORS}
    head, factors = model["head"], params[FACTORS]
    return model | {"head": {"kernel": head["kernel"] * factors.reshape(1, -1), "bias": head["bias"] * factors}}


def train_head(config, dataset: data.Dataset, mesh, weights: Weights, kind: str, stop: StopRequest):
    """Train the head of given weights, host arrays; `kind` is crt or lws.

    Returns (Head, factors [C] of lws, None for crt, and of the adversarial images of the last epoch the mean `loss`,
    the `accuracy`, and the `count` [C] of each class). Raises FieldError if the loss is no longer a finite number.
    """
    fields, labels = config.posthoc, dataset.train.labels
    batch_size, seed, classes = config.train.batch_size, config.train.seed, dataset.num_classes
    steps_per_epoch = batches.steps_per_epoch(len(labels), batch_size)
    total_steps = steps_per_epoch * fields.epochs
    model = objects.model(config, classes, mesh)
    initial_key, key = jax.random.split(randomness.key(seed, randomness.Purpose.HEAD_TRAINING))
    params, trained, deploy = weights.params | {FACTORS: np.ones(classes, np.float32)}, FACTORS, deploy_lws
    if kind == "crt":
        image = np.zeros((1, *dataset.image_shape), np.float32)
        initial = jax.jit(lambda key, image: model.init(key, image)["params"]["head"])(initial_key, image)
        params, trained, deploy = weights.params | {"head": jax.device_get(initial)}, "head", deploy_crt

    schedule = optimizers.schedule("cosine", learning_rate=fields.learning_rate, total_steps=total_steps)
    decay = fields.weight_decay if kind == "crt" else 0.0  # factors would be drawn to 0, not to 1
    optimizer = optimizers.create("sgd", schedule, momentum=fields.momentum, weight_decay=decay)
    optimizer = optax.multi_transform(
        {"trained": optimizer, "frozen": optax.set_to_zero()},
        {
            name: jax.tree.map(lambda _, own=name == trained: "trained" if own else "frozen", params[name])
            for name in params
        },
    )
    training = training_setup.head_training(config, dataset, mesh, FrozenModel(model, deploy), optimizer, total_steps)
    train_steps, inputs = input_pipeline.create(training)
    state = TrainState(
        step=np.zeros((), np.int32),
        weights=Weights(params, weights.batch_stats),
        averaged=None,
        opt_state=optimizer.init(params),
        knobs=knobs.neutral(classes),
        memory={},
        class_sums=class_statistics.zeros((), classes),
    )
    # Through the host: the updates take over the memory of their state.
    state = parallel.replicate(jax.device_get(state), mesh)
    sampling = np.asarray(long_tail.sampling_by_power(dataset.train.counts(classes).astype(np.float32), 0.0))

    def check_loss(step, loss):
        if not np.isfinite(loss):
            raise FieldError("posthoc.learning_rate", fields.learning_rate, f"the loss is {loss}", "lower it")

    step, before = 0, jax.device_get(state.class_sums)
    for epoch in range(fields.epochs):
        title = f"{kind}, epoch {epoch + 1}/{fields.epochs}"
        # Epochs after those of the training, for orders of their own.
        order = batches.epoch_order(
            labels, batch_size=batch_size, seed=seed, epoch=config.train.epochs + epoch, sampling=sampling
        )
        with console.progress(title, total_steps * batch_size, "images", step * batch_size) as advance:
            state, step = epochs.update(
                state, step, train_steps, inputs(order, step), key, check_loss, lambda n: advance(n * batch_size), stop
            )
        if stop:
            raise Interrupted(stop.signal_number, f"stopped in {title}; nothing is written")
        sums = jax.device_get(state.class_sums)
        of_epoch = jax.tree.map(np.subtract, sums, before)
        count, before = of_epoch["count"], sums
        loss, accuracy = (float(of_epoch[name].sum() / count.sum()) for name in ("loss", "correct"))
        found = {"loss": loss, "accuracy": accuracy, "count": count}
        console.say(
            f"{title}: loss {found['loss']:.4f}, accuracy on the images trained on {100 * found['accuracy']:.1f}"
        )
    params = jax.device_get(state.weights.params)
    head = jax.device_get(deploy(params))["head"]
    return Head(head["kernel"], head["bias"]), params.get(FACTORS), found
