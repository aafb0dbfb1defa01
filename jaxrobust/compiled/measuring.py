"""Fair measurements of compiled programs: time, compilation, memory, and the machine's own matrix product.

A device works while the host goes on: every time here ends when the results are there. What is compared is measured in
turns, so that a machine whose speed drifts favours none.
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

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxrobust import parallel

_PRODUCT_SECONDS = 0.02  # what takes longer keeps the device busy, and a larger product is no faster
_LARGEST_PRODUCT = 16_384


@dataclasses.dataclass
class Work:
    """Something whose time is measured.

    Attributes:
        run: run(times) does it so many times, and returns when it is done.
        times: per repeat.
        repeats: of it.
        seconds: measured so far, per time it was done.
    """

    run: Callable[[int], None]
    times: int
    repeats: int
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds, the median over repeats."""
        return statistics.median(self.seconds)


def plan(run: Callable[[int], None], *, seconds: float, times: int | None, least: int, most: int = 5) -> Work:
    """Warm up, and choose how often to do a work so that measuring it takes about `seconds`.

    Args:
        times: how often to do it in each repeat, whatever that takes; None: as `seconds` says.
        least, most: repeats.
    """
    run(1)  # may pay for a start, and tells nothing of what follows
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


@dataclasses.dataclass(frozen=True)
class Compilation:
    """A compiled program, and the seconds it took from Python to there.

    Attributes:
        compiled: the program.
        cold: with nothing in any cache.
        warm: with the compiled program in the persistent cache, as a new process finds it.
        traced: the part of both that goes from Python to XLA's input.
    """

    compiled: jax.stages.Compiled
    cold: float
    warm: float
    traced: float


def compilation(lower: Callable[[], jax.stages.Lowered]) -> Compilation:
    """Compile with an empty persistent cache, and again with a full one; the user's own is neither read nor written."""
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
    """Use the persistent compilation cache in a folder, for every program however small."""
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
    """(bytes, where they come from): the most that one device has held so far; for CPU devices, that this process has.

    A process's peak includes the data, compilation and Python itself.
    """
    local = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in local]
    if all(peak is not None for peak in peaks):
        return max(peaks), "peak_bytes_in_use of the fullest device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "peak resident memory of the process"


@dataclasses.dataclass(frozen=True)
class MatrixProduct:
    """The fastest square matrix product: its size, and the arithmetic per second of all devices at it together."""

    size: int
    flops_per_second: float


def matrix_product(mesh, dtype: str, repeats: int = 5) -> MatrixProduct:
    """What the devices reach in a product of two square matrices of `dtype`, each device its own.

    The size doubles, from 512 to 2048 at least, until a product takes 20 ms or a larger one is no faster.
    """
    multiply = parallel.spmd(
        lambda a, b: a @ b, mesh, in_specs=(parallel.SHARDED, parallel.REPLICATED), out_specs=parallel.SHARDED
    )
    best = MatrixProduct(0, 0.0)
    size = 512
    while size <= _LARGEST_PRODUCT:
        left, right = _factors(mesh, size, dtype)

        def run(times, left=left, right=right):
            for _ in range(times):
                product = multiply(left, right)
            jax.block_until_ready(product)

        run(1)
        once = _seconds(run, 1)
        times = max(1, math.ceil(0.05 / once))  # several in a row: a short one is mostly its start
        seconds = min(_seconds(run, times) / times for _ in range(repeats))
        reached = 2 * size**3 * mesh.size / seconds
        if reached < 1.02 * best.flops_per_second and size > 2048:
            break
        best = max(best, MatrixProduct(size, reached), key=lambda product: product.flops_per_second)
        if seconds > _PRODUCT_SECONDS and size >= 2048:
            break
        size *= 2
    return best


def _factors(mesh, size: int, dtype: str):
    """Two factors made on the devices, whose share of the first is one square each.

    Random, for a device draws less power over equal numbers, clocks higher, and then is faster than any training.
    """

    def draw(key):
        own, common = jax.random.split(key)
        own = jax.random.fold_in(own, jax.lax.axis_index(parallel.AXIS))
        return jax.random.normal(own, (size, size), dtype), jax.random.normal(common, (size, size), dtype)

    out_specs = (parallel.SHARDED, parallel.REPLICATED)
    return parallel.spmd(draw, mesh, in_specs=parallel.REPLICATED, out_specs=out_specs)(jax.random.key(0))
