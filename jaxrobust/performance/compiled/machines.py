"""Machines for which programs can be compiled although they are not present, with their published specifications.

    machine, count = machines.parse("v5e:16x16")
    devices = machines.devices("v5e:16x16")

The compilers are the machines' own: libtpu for TPUs, the CUDA wheels for GPUs.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import sys
import tempfile

import jax
from jax.experimental import topologies

from jaxrobust.errors import FieldError
from jaxrobust.performance.compiled.program import Collective, Kernel

GIB = 2**30
# Environment variables of the share of GPU memory that jaxlib reserves; the second name is the older one.
MEMORY_FRACTION = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@dataclasses.dataclass(frozen=True)
class Machine:
    """One kind of chip, in a node or slice of several."""

    name: str  # as users write it
    platform: str  # tpu | gpu | cpu
    memory: float  # bytes; for TPUs the bytes that the compiler allows
    bandwidth: float  # of the memory, bytes/s; 0 if unknown, then no times are estimated
    peak: dict[str, float]  # flops/s of matrix products, by the type of their operands
    # bytes/s that a chip can send to its neighbours while it receives as much, only over links that the shape of its
    # slice has.
    link: float
    node: int  # number of chips connected by such links; 0: all of them
    network: float  # bytes/s of a chip to other nodes
    source: str  # of these figures
    options: dict = dataclasses.field(default_factory=dict)  # topology options for TPUs; device properties for GPUs

    @property
    def capacity(self) -> float:
        """Bytes that a program with its arguments may use; for GPUs the share that JAX reserves when it starts."""
        return self.memory * (_memory_fraction() if self.platform == "gpu" else 1.0)


def _memory_fraction() -> float:
    for name in MEMORY_FRACTION:
        if text := os.environ.get(name):
            break
    else:
        return 0.75
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise FieldError(name, text, "is not a share of a GPU's memory", "set it above 0 and up to 1, or unset it")
    return share


def _tpu(name, gib, bandwidth, bf16, link, page, **options):
    # Products of float32 operands are computed in bfloat16; those of the highest precision take six such products.
    peak = {"bf16": bf16, "f32": bf16, "f32 highest": bf16 / 6}
    source = f"https://cloud.google.com/tpu/docs/{page}"
    return Machine(name, "tpu", gib * GIB, bandwidth, peak, link / 2, 0, 0.0, source, options)


def _gpu(name, memory, bandwidth, bf16, tf32, f32, link, network, page, **options):
    peak = {"bf16": bf16, "f16": bf16, "f32": tf32, "f32 highest": f32}
    source = f"https://www.nvidia.com/en-us/data-center/{page}"
    return Machine(name, "gpu", memory, bandwidth, peak, link / 2, 8, network, source, options)


# TPU memory is what the compiler reports as available; the other figures are from the given page, where link rates are
# the sum of both directions. GPUs are the SXM versions, linked by NVLink in nodes of eight. Between nodes each GPU is
# assumed to have its own 400 Gbit/s adapter (A100: 200), as in DGX systems. Rates are without sparsity.
_HOPPER = {"capability": (9, 0), "cores": 132, "fpus": 128, "shared": 233472, "optin": 232448, "clock": 1.98}
_AMPERE = {"capability": (8, 0), "cores": 108, "fpus": 64, "shared": 167936, "optin": 166912, "clock": 1.41}
MACHINES = {
    machine.name: machine
    for machine in (
        _tpu("v4", 31.75, 1228e9, 275e12, 600e9, "v4", chip_config_name="megacore"),
        _tpu("v5e", 15.75, 819e9, 197e12, 400e9, "v5e"),
        _tpu("v5p", 95.74, 2765e9, 459e12, 1200e9, "v5p"),
        _tpu("v6e", 31.25, 1638e9, 918e12, 800e9, "v6e"),
        _gpu("h200", 150754820096, 4.8e12, 989e12, 494e12, 67e12, 900e9, 50e9, "h200", l2=62914560, **_HOPPER),
        _gpu("h100", 84978434048, 3.35e12, 989e12, 494e12, 67e12, 900e9, 50e9, "h100", l2=52428800, **_HOPPER),
        _gpu("a100", 84986691584, 2.039e12, 312e12, 156e12, 19.5e12, 600e9, 25e9, "a100", l2=41943040, **_AMPERE),
        Machine("cpu", "cpu", 0.0, 0.0, {}, 0.0, 0, 0.0, "this machine"),
    )
}


def parse(topology: str) -> tuple[Machine, int]:
    """(machine with the links of this shape, number of chips); a FieldError if the topology does not exist."""
    name, _, size = topology.partition(":")
    remedy = "write TPU:CHIPSxCHIPS, for example v5e:16x16 or v5p:2x2x4, or GPU:COUNT, for example h200:8"
    if name not in MACHINES:
        raise FieldError("topology", topology, f"{name!r} is none of {', '.join(MACHINES)}", remedy)
    machine = MACHINES[name]
    dimensions = {"v4": 3, "v5p": 3}.get(name, 2) if machine.platform == "tpu" else 1
    if not re.fullmatch("x".join([r"[1-9]\d{0,5}"] * dimensions), size):
        raise FieldError("topology", topology, f"a {name} has {dimensions} numbers after the colon", remedy)
    shape = [int(n) for n in size.split("x")]
    count = math.prod(shape)
    if machine.platform == "gpu" and count > machine.node and count % machine.node:
        raise FieldError("topology", topology, f"nodes have {machine.node} GPUs", f"use a multiple of {machine.node}")
    if machine.platform == "tpu":
        machine = dataclasses.replace(machine, link=machine.link * _linked(shape))
    return machine, count


def _linked(shape: list[int]) -> float:
    """The share of a TPU chip's links that a slice of this shape uses."""
    # Without a link from the end of a dimension to its start, a ring has to go back over the same links, which halves
    # the rate. In 2D slices such links exist only at the full length of the pod, in 3D slices with whole 4x4x4 cubes.
    cubes = all(size % 4 == 0 for size in shape)
    rings = [cubes if len(shape) == 3 else size == 16 for size in shape]
    of = [0.0 if size == 1 else 1.0 if ring else 0.5 for size, ring in zip(shape, rings, strict=True)]
    return sum(of) / len(of)


def devices(topology: str) -> list:
    """The devices of a topology, for compilation only; a FieldError if it or its compiler does not exist."""
    machine, count = parse(topology)
    if machine.platform == "cpu":
        return _cpu_devices(topology, count)
    wheel, extra = ("libtpu", "tpu") if machine.platform == "tpu" else ("jax_cuda13_plugin", "cuda")
    if importlib.util.find_spec(wheel) is None:
        problem = f"its compiler, {wheel}, is not installed"
        raise FieldError("topology", topology, problem, f"pip install -e '.[{extra}]'")
    try:
        with quiet():
            jax.devices()  # starts JAX, which loads libtpu for any machine
            if machine.platform == "tpu":
                alone = {"chips_per_host_bounds": [1, 1, 1]} if count == 1 else {}  # else hosts have four
                found = topologies.get_topology_desc(topology_name=topology, platform="tpu", **machine.options, **alone)
            else:
                nodes, each = (count // machine.node, machine.node) if count > machine.node else (1, count)
                shape, target = f"{nodes}x1x{each}", _target_config(machine)
                found = topologies.get_topology_desc(platform="cuda", topology=shape, target_config=target)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason, remedy = str(error).partition("\n")[0][:200], "use a shape that exists"
        if machine.platform == "gpu" and "not implemented" in reason:  # the platform has not registered a compiler
            reason, remedy = "the CUDA compiler did not load", "check that the wheels of .[cuda] are all installed"
        raise FieldError("topology", topology, reason, remedy) from error
    return list(found.devices)


def prepare_process() -> None:
    """Set up this process to compile for absent machines only, and use no device. Call it before JAX starts.

    XLA reads its flags once, so all of them are set for any machine.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # else libtpu queries the network for the machine type
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # else libtpu locks out all other processes
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # else a missing driver is an error
    # Autotuning would need the device, and Triton's matrix products are used only if autotuning selects them.
    flags = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false --xla_gpu_shard_autotuning=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def all_reduce_seconds(machine: Machine, payload: float, count: int) -> float:
    """Seconds of a ring all-reduce of `payload` bytes over `count` chips, without latency.

    Over several nodes: reduce-scatter within each node, all-reduce of each chip's share over the nodes through its own
    adapter, all-gather within each node.
    """
    if not machine.link:
        return 0.0
    each = min(count, machine.node or count)
    nodes = count / each
    seconds = 2 * (each - 1) / each * payload / machine.link
    if nodes > 1:
        seconds += 2 * (nodes - 1) / nodes * (payload / each) / machine.network
    return seconds


def collective_seconds(machine: Machine, collectives: tuple[Collective, ...], count: int) -> float:
    """Seconds of all communication of a step on `count` chips, if none of it overlaps with arithmetic."""
    total = 0.0
    for collective in collectives:
        # An all-gather and a reduce-scatter each take half the time of an all-reduce.
        share = 1.0 if collective.kind == "all-reduce" else 0.5
        total += share * collective.executions * all_reduce_seconds(machine, collective.bytes, count)
    return total


def roofline(machine: Machine, kernels: tuple[Kernel, ...]) -> dict[str, float] | None:
    """Minimal seconds of the kernels of a step by bandwidth and peak rate, without communication.

    Returns:
        arithmetic: at the peak rate; traffic: at full bandwidth; whole: the larger of the two, as with perfect overlap;
        kernels: the sum over kernels of the larger of the two for each. None if the machine's rates are unknown.
    """
    if not machine.bandwidth:
        return None
    arithmetic = traffic = in_turn = 0.0
    for kernel in kernels:
        if kernel.kind == "collective":
            continue
        computing = kernel.flops / machine.peak.get(kernel.dtype, machine.peak["f32"]) if kernel.flops else 0.0
        moving = kernel.bytes / machine.bandwidth
        arithmetic += kernel.executions * computing
        traffic += kernel.executions * moving
        in_turn += kernel.executions * max(computing, moving)
    return {"arithmetic": arithmetic, "traffic": traffic, "whole": max(arithmetic, traffic), "kernels": in_turn}


def seconds_alone(machine: Machine, least: dict[str, float]) -> float:
    """Of a `roofline`: a GPU runs one kernel after another; a TPU loads operands while it computes."""
    return least["kernels" if machine.platform == "gpu" else "whole"]


@contextlib.contextmanager
def quiet():
    """Hide the output of C++ libraries on stderr, see preflight.py; libtpu reports at length that there is no TPU."""
    sys.stderr.flush()
    saved = os.dup(2)
    sink, path = tempfile.mkstemp(prefix="jaxrobust-", suffix=".log")
    os.dup2(sink, 2)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.unlink(path)


def _cpu_devices(topology, count):
    with contextlib.suppress(RuntimeError):  # the backend has started, with a fixed number of devices
        jax.config.update("jax_num_cpu_devices", max(count, jax.config.jax_num_cpu_devices))
    found = jax.devices("cpu")
    if len(found) < count:
        raise FieldError("topology", topology, f"JAX has started with {len(found)} CPU devices", "use fewer")
    return found[:count]


def _target_config(machine: Machine) -> str:
    """The description of a GPU for XLA, as a text protocol buffer."""
    o, (major, minor) = machine.options, machine.options["capability"]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {o["shared"]} shared_memory_per_block_optin: {o["optin"]}
  core_count: {o["cores"]} fpus_per_core: {o["fpus"]} clock_rate_ghz: {o["clock"]} l2_cache_size: {o["l2"]}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {round(machine.bandwidth)} device_memory_size: {round(machine.memory)}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 minor: 0 }}
device_description_str: "NVIDIA {machine.name.upper()}"
"""
