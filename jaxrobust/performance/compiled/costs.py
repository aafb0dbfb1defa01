"""The cost of a config before it is run: its programs, for devices that need not be present, and its arithmetic.

lower_training(config, description, mesh, total_steps).compile()  # an update of the training, or several
lower_evaluation(config, description, mesh, spec).compile()  # a batch of an evaluation
floor_passes(config) * forward_flops(config, description, mesh)  # minimal arithmetic of a training image
"""

import math
from functools import partial

import jax
import numpy as np

from jaxrobust import config as config_lib, data
from jaxrobust.config import objects
from jaxrobust.data import batches
from jaxrobust.distributed import parallel
from jaxrobust.evaluation import loading
from jaxrobust.performance.compiled import flops
from jaxrobust.training import setup as training_setup


def dispatch_length(config, description: data.Description, mesh) -> int:
    """Updates per program of `lower_training`: at most those of an epoch, and one if the host streams the data."""
    if config.data.streaming:
        return 1
    steps_per_epoch = batches.steps_per_epoch(description.train_examples, config.train.batch_size)
    return min(training_setup.create(config, description, mesh, steps_per_epoch).steps_per_dispatch, steps_per_epoch)


def lower_training(config, description: data.Description, mesh, total_steps: int) -> jax.stages.Lowered:
    """Lower the `dispatch_length` updates of one dispatch; `lowered.args_info` describes the arguments."""
    whole, training = parallel.REPLICATED, training_setup.create(config, description, mesh, total_steps)
    state, key = training.abstract_state(), _key(mesh)
    batch, examples, shape = config.train.batch_size, description.train_examples, description.image_shape
    array = partial(_array, mesh)
    if config.data.streaming:
        share = parallel.SHARDED
        inputs = array((batch, *shape), description.pixel_type, share), array((batch,), "int32", share)
        return training.streamed_step().lower(state, *inputs, key)
    resident = array((examples, math.prod(shape)), description.pixel_type, whole), array((examples,), "int32", whole)
    indices = array((dispatch_length(config, description, mesh), batch), "int32", parallel.SHARDED_STEPS)
    return training.resident_steps().lower(state, *resident, indices, key)


def lower_evaluation(config, description: data.Description, mesh, spec) -> jax.stages.Lowered:
    """Lower one batch of an evaluation, of an attack its first part, or of the clean images where `spec` is None."""
    weights = loading.abstract_weights(config, description, mesh)
    classifier = loading.classifier(config, description.num_classes, mesh)
    array, batch, share = partial(_array, mesh), config.eval.batch_size, parallel.SHARDED
    images = array((batch, *description.image_shape), description.pixel_type, share)
    labels, radius = array((batch,), "int32", share), array((batch,), "float32", share)
    if spec is None:
        return classifier.predict_step.lower(weights, images)
    begin, _ = classifier.attacker(spec, config.threat.norm, config_lib.relative_step(config)).first_part()
    run = array((), "int32", parallel.REPLICATED)
    return begin.lower(weights, images, labels, labels, radius, _key(mesh), run)


def forward_flops(config, description: data.Description, mesh) -> float:
    """Flops of one forward pass of one image; the same for all devices, however these compute it."""
    classifier = objects.model(config, description.num_classes, mesh).clone(canonical_gradients=False)
    image = jax.ShapeDtypeStruct((1, *description.image_shape), np.float32)
    variables = jax.eval_shape(lambda key, x: classifier.init(key, x, train=False), jax.random.key(0), image)
    return flops.forward(lambda v, x: classifier.apply(v, x, train=False), variables, image)


def floor_passes(config) -> int:
    """The minimal arithmetic of a training image, in forward passes."""
    # An attack step is a forward pass and a gradient with respect to the image; an update has that of the weights too.
    of = objects.objective(config)
    attack = 2 * config.attack.steps * config.attack.restarts if of.attacks else 0
    return attack + of.attack_passes + of.passes * (2 if config.objective.awp_gamma else 1)


def _key(mesh):
    return parallel.abstract(jax.eval_shape(jax.random.key, 0), mesh)


def _array(mesh, shape, dtype, spec) -> jax.ShapeDtypeStruct:
    return parallel.abstract(jax.ShapeDtypeStruct(shape, dtype), mesh, spec)
