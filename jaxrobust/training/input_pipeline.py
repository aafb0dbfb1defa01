"""How training images reach the devices: the training set is kept on each device, or the host streams the images.

    train_steps, inputs = create(training)
    for length, arguments in inputs(order, first_step):
        state, losses = train_steps(state, *arguments, key)    # `length` updates

`order` [steps, batch] holds the image indices of an epoch, or of the rest of an epoch, and `first_step` is the number
of its first step.
"""

from jaxrobust.distributed import parallel
from jaxrobust.training.training import Training

_BATCHES_AHEAD = 2  # batches in transfer to the devices


def create(training: Training):
    """The compiled updates, and the function that yields their inputs."""
    return (streamed if training.data.streamed else resident)(training)


def resident(training: Training):
    """The training set is on every device; the host sends the indices of several steps at once.

    An interruption does not change how steps are grouped, since a run stops only between groups.
    """
    split, mesh, length = training.data.train, training.mesh, training.steps_per_dispatch
    data = parallel.replicate((split.images.reshape(len(split), -1), split.labels), mesh)

    def inputs(order, first_step):
        for start in range(0, len(order), length):
            indices = order[start : start + length]
            yield len(indices), (*data, parallel.shard(indices, mesh, parallel.SHARDED_STEPS))

    return training.resident_steps(), inputs


def streamed(training: Training):
    """Each host sends the images to its devices step by step; they are read and decoded in advance."""
    from jaxrobust.data import streaming

    mesh = training.mesh

    def inputs(order, first_step):
        shares = streaming.train_batches(
            training.data.train,
            order,
            first_step=first_step,
            seed=training.seed,
            share=parallel.local_positions(mesh, order.shape[1]),
            **training.decode,
        )
        batches = (parallel.join(share, mesh, order.shape[1]) for share in shares)
        for batch in streaming.prefetch(batches, _BATCHES_AHEAD):
            yield 1, batch

    return training.streamed_step(), inputs
