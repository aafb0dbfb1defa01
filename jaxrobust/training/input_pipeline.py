"""How training images reach the devices: the training set is kept on each device, or the host streams the images.

    train_steps, inputs = create(config, dataset, mesh, total_steps)
    for length, arguments in inputs(order, first_step):
        state, losses = train_steps(state, *arguments, key)    # `length` updates

`order` [steps, batch] holds the image indices of an epoch, or of the rest of an epoch, and `first_step` is the number
of its first step.
"""

from jaxrobust.distributed import parallel
from jaxrobust.training import setup as training_setup

_BATCHES_AHEAD = 2  # batches in transfer to the devices


def create(config, dataset, mesh, total_steps: int, step=None):
    """The compiled updates, and the function that yields their inputs.

    Args:
        step: function that makes one update, see step.make_train_step; None for the one of the config.
    """
    return (streamed if dataset.streamed else resident)(config, dataset, mesh, total_steps, step)


def resident(config, dataset, mesh, total_steps: int, step=None):
    """The training set is on every device; the host sends the indices of several steps at once.

    An interruption does not change how steps are grouped, since a run stops only between groups. If an epoch ends with
    a shorter group, that group has its own program, which is compiled at the end of the first epoch.
    """
    rows = dataset.train.images.reshape(len(dataset.train), -1)
    data = parallel.replicate((rows, dataset.train.labels), mesh)
    length = training_setup.steps_per_dispatch(config, mesh)

    def inputs(order, first_step):
        for start in range(0, len(order), length):
            indices = order[start : start + length]
            yield len(indices), (*data, parallel.shard(indices, mesh, parallel.SHARDED_STEPS))

    return training_setup.train_steps(config, dataset, mesh, total_steps, step), inputs


def streamed(config, dataset, mesh, total_steps: int, step=None):
    """Each host sends the images to its devices step by step; they are read and decoded in advance."""
    from jaxrobust.data import streaming

    def inputs(order, first_step):
        shares = streaming.train_batches(
            dataset.train,
            order,
            first_step=first_step,
            seed=config.train.seed,
            share=parallel.local_positions(mesh, order.shape[1]),
            operations=tuple(config.data.augment),
            crop_scale=tuple(config.data.crop_scale),
        )
        batches = (parallel.join(share, mesh, order.shape[1]) for share in shares)
        for batch in streaming.prefetch(batches, _BATCHES_AHEAD):
            yield 1, batch

    return training_setup.streamed_train_step(config, dataset.num_classes, mesh, total_steps, step), inputs
