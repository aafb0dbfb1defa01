"""Devices: the mesh, the mapping of per-device functions to one SPMD program, and global arrays.

Steps are written for one device's share of the batch, with a named axis and explicit collectives over it. Only this
file knows how many devices there are.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"  # the mesh's only axis; what a step's lax.pmean and lax.psum name
REPLICATED = PartitionSpec()  # every device has the whole
SHARDED = PartitionSpec(AXIS)  # every device has its share of the leading dimension
SHARDED_STEPS = PartitionSpec(None, AXIS)  # [steps, batch]: every device has its share of each batch


def make_mesh(devices=None) -> Mesh:
    """A mesh of one axis over the devices, all there are by default."""
    devices = jax.devices() if devices is None else devices
    # Auto: with explicit axes, the default, scatter-adds such as bincount raise.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def spmd(function, mesh: Mesh, *, in_specs, out_specs, donate=()):
    """One jitted program that runs the per-device `function` on every device of the mesh.

    Args:
        in_specs, out_specs: REPLICATED or SHARDED for each argument and result, or a pytree of them.
        donate: numbers of the arguments whose memory the results may take.
    """
    # check_vma=False: with it, the gradient of a per-device loss with respect to replicated weights comes out already
    # summed over devices, and the steps' explicit pmean would count each device many times over.
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return jax.jit(mapped, donate_argnums=donate)


def replicate(tree, mesh: Mesh):
    """The tree's arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def shard(tree, mesh: Mesh, spec: PartitionSpec = SHARDED):
    """The tree's host arrays, whole on every process, split over the devices along one dimension, the leading one.

    Of what stands for an array and is made one by `np.asarray`, such as images yet to be decoded, only the shares of
    this process's devices are.
    """
    sharding = NamedSharding(mesh, spec)

    def put(array):
        return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index]))

    return jax.tree.map(put, tree)


def one_behind(started):
    """The items of an iterator, each handed on when the next one has been started.

    What a device computes is started without waiting for it; looking at a result one item late leaves the device with
    work to do in the meantime.
    """
    previous = None
    for item in started:
        if previous is not None:
            yield previous
        previous = item
    if previous is not None:
        yield previous


def on_cpu(mesh: Mesh) -> bool:
    """Whether the mesh is made of CPU devices, where XLA wants its convolutions written in one particular way."""
    return mesh.devices.flat[0].platform == "cpu"


def is_writer() -> bool:
    """Whether this process is the one that writes files. All processes compute."""
    return jax.process_index() == 0
