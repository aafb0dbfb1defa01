"""Devices: the mesh, the mapping of per-device functions to one SPMD program, and global arrays.

Steps are written for one device's share of the batch, with a named axis and explicit collectives over it. Only this
file knows how many devices there are.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class Step:
    """A per-device function with the layout of its arguments and results; calling it calls the function."""

    function: Callable  # of this device's share
    in_specs: tuple  # REPLICATED, SHARDED or SHARDED_STEPS for each argument, or a pytree of them
    out_specs: Any  # the same of the results
    donate: tuple[int, ...] = ()  # numbers of the arguments whose memory the results may take

    def __call__(self, *arguments):
        return self.function(*arguments)


def step(*in_specs, out, donate=()) -> Callable[[Callable], Step]:
    """Decorator that makes a per-device function a `Step`: `@step(REPLICATED, SHARDED, out=REPLICATED)`."""
    return lambda function: Step(function, in_specs, out, tuple(donate))


def spmd(step: Step, mesh: Mesh):
    """One jitted program that runs the step on every device of the mesh."""
    # check_vma=False: with it, the gradient of a per-device loss with respect to replicated weights comes out already
    # summed over devices, and the steps' own sum over devices would count each of them many times over.
    mapped = jax.shard_map(step.function, mesh=mesh, in_specs=step.in_specs, out_specs=step.out_specs, check_vma=False)
    return jax.jit(mapped, donate_argnums=step.donate)


def connect_devices(mesh: Mesh) -> None:
    """Make the first collective of all devices, which opens the connections between them."""
    total = spmd(step(SHARDED, out=SHARDED)(lambda ones: jax.lax.psum(ones, AXIS)), mesh)
    total(shard(np.ones(mesh.size, np.float32), mesh)).block_until_ready()


def replicate(tree, mesh: Mesh):
    """The tree's arrays, whole and equal on every process, on every device."""
    return jax.tree.map(lambda array: _replicate(array, NamedSharding(mesh, REPLICATED)), tree)


def replicate_like(tree, like):
    """The tree's host arrays on the devices of the tree `like`, which are whole on each."""
    return jax.tree.map(lambda array, other: _replicate(array, other.sharding), tree, like)


def _replicate(array, sharding):
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # There device_put would let the processes compare their arrays, at the cost of sending them around.
    return _place(array, sharding)


def shard(tree, mesh: Mesh, spec: PartitionSpec = SHARDED):
    """The tree's host arrays, whole on every process, split over the devices along one dimension, the leading one.

    Of what stands for an array and is made one by `np.asarray`, such as images yet to be decoded, only the shares of
    this process's devices are.
    """
    return jax.tree.map(lambda array: _place(array, NamedSharding(mesh, spec)), tree)


def abstract(tree, mesh: Mesh, spec: PartitionSpec = REPLICATED):
    """Shapes, types and devices of the tree's arrays as `replicate` or `shard` lays them out; no device need be there.

    The tree's leaves have a shape and a dtype.
    """
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _place(array, sharding):
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index]))


def local(tree):
    """This process's rows of the tree's arrays, which are split over the devices, as host arrays; see `join`."""

    def rows(array):
        if array.is_fully_addressable:
            return np.asarray(array)
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(rows, tree)


def local_positions(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The positions of a global batch that belong to this process's devices, rising."""
    shares = NamedSharding(mesh, SHARDED).addressable_devices_indices_map((batch_size,)).values()
    return np.sort(np.concatenate([np.arange(batch_size)[share] for (share,) in shares]))


def join(tree, mesh: Mesh, batch_size: int):
    """Global arrays [batch_size, ...] of which each process brings its `local_positions` as host arrays."""
    sharding = NamedSharding(mesh, SHARDED)

    def join_array(array):
        return jax.make_array_from_process_local_data(sharding, array, (batch_size, *array.shape[1:]))

    return jax.tree.map(join_array, tree)


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
