"""Fair measurements of compiled programs: run time, compile time, memory, and the speed of a plain matrix product.

Devices run asynchronously, so every time measured here ends when the results are ready. Programs that are compared are
measured in turns, so that a drift of the machine's speed affects all of them equally.
"""

import contextlib
import dataclasses
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxrobust.distributed import parallel

_PRODUCT_SECONDS = 0.02  # a product that takes longer keeps the device busy, so larger ones are not tried
LARGEST_PRODUCT = 16_384


@dataclasses.dataclass
class Work:
    """Something whose time is measured."""

    run: Callable[[int], None]  # run(times) does it `times` times, and returns when the results are ready
    times: int  # per repeat
    repeats: int  # number of measurements
    seconds: list[float] = dataclasses.field(default_factory=list)  # measured so far, of one execution

    @property
    def median(self) -> float:
        """Median seconds over the repeats."""
        return statistics.median(self.seconds)


def plan(run: Callable[[int], None], *, seconds: float, times: int | None, least: int, most: int = 5) -> Work:
    """Warm up, and choose how often to run, from `least` to `most` repeats, so that the measurement takes about
    `seconds`; `times` are the executions per repeat, however long they take, if they are not to be chosen.
    """
    run(1)  # the first run may include start-up costs
    once = _seconds(run, 1)
    if times is None:
        times = max(1, round(seconds / most / once))
    return Work(run, times, max(least, min(most, int(seconds / (times * once)))))


def in_turns(works: list[Work]) -> None:
    """Measure all works, one repeat of each at a time."""
    for turn in range(max(work.repeats for work in works)):
        for work in works:
            if turn < work.repeats:
                work.seconds.append(_seconds(work.run, work.times) / work.times)


def _seconds(run, times: int) -> float:
    started = time.perf_counter()
    run(times)
    return time.perf_counter() - started


class Compilation(NamedTuple):
    """A compiled program, and the seconds it took from the Python function to it."""

    compiled: jax.stages.Compiled  # the program
    cold: float  # with empty caches
    warm: float  # in a new process, with the compiled program in the persistent cache
    traced: float  # the part of both from Python to XLA's input


def compilation(lower: Callable[[], jax.stages.Lowered]) -> Compilation:
    """Compile without and then with a persistent cache entry; the user's own cache is neither read nor written."""
    with tempfile.TemporaryDirectory(prefix="jaxrobust-cache-") as folder, _persistent_cache(folder):
        jax.clear_caches()
        started = time.perf_counter()
        lowered = lower()
        traced = time.perf_counter() - started
        lowered.compile()
        cold = time.perf_counter() - started
        jax.clear_caches()
        started = time.perf_counter()
        compiled = lower().compile()
        warm = time.perf_counter() - started
    return Compilation(compiled, cold, warm, traced)


@contextlib.contextmanager
def _persistent_cache(folder: str):
    """Use the persistent compilation cache in a folder, for all programs including small ones."""
    wanted = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def peak_memory(mesh) -> tuple[int, str]:
    """(bytes, source): the peak memory so far of the fullest device; for CPU devices, that of this process.

    The peak of a process includes data, compilation and Python itself.
    """
    local = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in local]
    if all(peak is not None for peak in peaks):
        return max(peaks), "peak_bytes_in_use of the fullest device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "peak resident memory of the process"


class MatrixProduct(NamedTuple):
    """The fastest square matrix product: its size, and the flops per second of all devices together."""

    size: int
    flops_per_second: float


def matrix_product(mesh, dtype: str, repeats: int = 5) -> MatrixProduct:
    """The speed of products of two square matrices of `dtype`, one on each device.

    The size doubles from 512, at least to 2048, until a product takes 20 ms or a larger one is not faster.
    """
    product_step = parallel.step(parallel.SHARDED, parallel.REPLICATED, out=parallel.SHARDED)(lambda a, b: a @ b)
    multiply = parallel.spmd(product_step, mesh)
    best = MatrixProduct(0, 0.0)
    size = 512
    while size <= LARGEST_PRODUCT:
        left, right = factors(mesh, size, dtype)

        def run(times, left=left, right=right):
            for _ in range(times):
                product = multiply(left, right)
            jax.block_until_ready(product)

        run(1)
        once = _seconds(run, 1)
        times = max(1, math.ceil(0.05 / once))  # several in a row, since a short one is mostly start-up
        seconds = min(_seconds(run, times) / times for _ in range(repeats))
        reached = 2 * size**3 * mesh.size / seconds
        if reached < 1.02 * best.flops_per_second and size > 2048:
            break
        best = max(best, MatrixProduct(size, reached), key=lambda product: product.flops_per_second)
        if seconds > _PRODUCT_SECONDS and size >= 2048:
            break
        size *= 2
    return best


def factors(mesh, size: int, dtype: str):
    """Two factors made on the devices; each device holds one square of the first.

    They are random: with constant numbers a device needs less power, clocks higher, and is faster than in training.
    """

    @parallel.step(parallel.REPLICATED, out=(parallel.SHARDED, parallel.REPLICATED))
    def draw(key):
        own, common = jax.random.split(key)
        own = jax.random.fold_in(own, jax.lax.axis_index(parallel.AXIS))
        return jax.random.normal(own, (size, size), dtype), jax.random.normal(common, (size, size), dtype)

    return parallel.spmd(draw, mesh)(jax.random.key(0))
