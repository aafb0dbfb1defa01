"""The same training, whether images stay on the devices or come from the host."""

import itertools

import jax
import numpy as np
import streamed_sets

from jaxrobust import config, data
from jaxrobust.distributed import parallel
from jaxrobust.training import epochs, input_pipeline, setup as training_setup


def trained(folder, streaming, devices, operations, cuts=(0, 5)):
    """Weights and losses after five steps, in one go or cut between some."""
    c = config.default()
    c.model.width = 4
    c.model.batch_norm = "synchronised"
    c.attack.steps = 1
    c.data.augment = operations
    c.data.pad = 1
    c.train.batch_size = 8
    c.train.steps_per_dispatch = 2
    dataset = streamed_sets.load(folder) if streaming else data.load("tfds:fixed", data_dir=str(folder))
    mesh = parallel.make_mesh(jax.devices()[:devices])
    training = training_setup.create(c, dataset, mesh, 5)
    state = training.initial_state()
    train_steps, inputs = input_pipeline.create(training)
    order = np.random.default_rng(0).integers(0, len(dataset.train), (5, 8), np.int32)
    losses = []
    for first, last in itertools.pairwise(cuts):
        state, step = epochs.update(
            state, first, train_steps, inputs(order[first:last], first), jax.random.key(1),
            lambda step, loss: losses.append((step, loss)), lambda amount: None, stop=False,
        )  # fmt: skip
        assert step == last
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5]
    return jax.device_get(state.weights), [loss for _, loss in losses]


def test_streamed_training_is_resident_training(folder):
    weights, losses = trained(folder, streaming=False, devices=2, operations=("crop", "flip"))
    streamed_weights, streamed_losses = trained(folder, streaming=True, devices=2, operations=("crop", "flip"))
    np.testing.assert_allclose(streamed_losses, losses, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), streamed_weights, weights)


def test_a_streamed_training_in_two_parts_is_the_same_bit_for_bit(folder):
    whole, losses = trained(folder, streaming=True, devices=1, operations=("resized_crop",))
    parts, losses_of_parts = trained(folder, streaming=True, devices=1, operations=("resized_crop",), cuts=(0, 3, 5))
    assert losses_of_parts == losses
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
