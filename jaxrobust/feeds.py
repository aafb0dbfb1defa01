"""How training images reach the devices: they stay there, or the host streams them.

    train_steps, inputs = create(config, dataset, mesh, total_steps)
    for length, arguments in inputs(order, first_step):
        state, losses = train_steps(state, *arguments, key)    # `length` updates

`order` [steps, batch] is that of an epoch, or the rest of it, and `first_step` the number of its first step.
"""

from jaxrobust import build, parallel

_BATCHES_AHEAD = 2  # on their way to the devices


def create(config, dataset, mesh, total_steps: int, step=None):
    """The compiled updates, and the function that gives their inputs.

    Args:
        step: that makes one update, if not that of the config's training; see train_steps.make_train_step.
    """
    return (streamed if dataset.streamed else resident)(config, dataset, mesh, total_steps, step)


def resident(config, dataset, mesh, total_steps: int, step=None):
    """The training set is on every device, the host sends indices, those of several steps at once.

    Steps are put together at the same places however often a run is interrupted, since it stops only between them. The
    rest of an epoch, where there is one, is a program of its own, compiled when the first epoch ends.
    """
    rows = dataset.train.images.reshape(len(dataset.train), -1)
    data = parallel.replicate((rows, dataset.train.labels), mesh)
    length = build.steps_per_dispatch(config, mesh)

    def inputs(order, first_step):
        for start in range(0, len(order), length):
            indices = order[start : start + length]
            yield len(indices), (*data, parallel.shard(indices, mesh, parallel.SHARDED_STEPS))

    return build.train_steps(config, dataset, mesh, total_steps, step), inputs


def streamed(config, dataset, mesh, total_steps: int, step=None):
    """Each host sends its devices the images of one step after another, read and decoded ahead."""
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

    return build.streamed_train_step(config, dataset.num_classes, mesh, total_steps, step), inputs
