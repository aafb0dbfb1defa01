"""Plans, turns, caches and matrix products; how fast the machine is, is no matter of a test."""

import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.distributed import parallel
from jaxrobust.performance.compiled import measuring


def test_plan_keeps_to_the_time_and_repeats_enough():
    done = []
    work = measuring.plan(done.append, seconds=0.5, times=3, least=2)
    assert work.times == 3 and work.repeats == 5
    measuring.in_turns([work])
    assert done == [1, 1, 3, 3, 3, 3, 3] and len(work.seconds) == 5
    assert measuring.plan(done.append, seconds=0.0, times=None, least=2).repeats == 2


def test_a_slow_start_is_not_planned_with():
    """As a program that is compiled by its first call: longer than all the time there is."""
    durations = iter([0.3])
    work = measuring.plan(lambda times: time.sleep(next(durations, 1e-3)), seconds=0.1, times=None, least=3)
    assert work.times > 1 and work.repeats >= 3


def test_works_take_turns_and_are_told_apart():
    order = []

    def work(name, seconds, repeats):
        def run(times):
            order.append(name)
            time.sleep(times * seconds)

        return measuring.Work(run, 2, repeats)

    fast, slow = work("fast", 1e-3, 3), work("slow", 0.05, 2)
    measuring.in_turns([fast, slow])
    assert order == ["fast", "slow", "fast", "slow", "fast"]
    assert slow.median >= 0.05 > fast.median >= 1e-3 and len(fast.seconds) == 3


@contextlib.contextmanager
def cache_events():
    """Names of what happens at the persistent compilation cache."""
    seen = []

    def listen(event, **_):
        if event.startswith("/jax/compilation_cache/cache_"):
            seen.append(event.rpartition("_")[2])

    jax.monitoring.register_event_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_listener(listen)


def test_compilation_misses_the_cache_once_hits_it_once_and_leaves_the_users_alone():
    before = jax.config.jax_compilation_cache_dir
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    with cache_events() as events:
        result = measuring.compilation(lambda: jax.jit(lambda x: jnp.sin(x) @ x).lower(square))
    assert events == ["misses", "hits"]
    assert 0 < result.traced < result.cold
    assert jax.config.jax_compilation_cache_dir == before
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    np.testing.assert_allclose(result.compiled(x), np.sin(x) @ x, rtol=1e-5)


def test_matrix_product_of_random_numbers(monkeypatch):
    """Equal operands cost a GPU less power."""
    mesh = parallel.make_mesh()
    left, right = measuring.factors(mesh, 64, "bfloat16")
    assert left.dtype == right.dtype == jnp.bfloat16 and right.sharding.is_fully_replicated
    squares = [np.asarray(shard.data, np.float32) for shard in left.addressable_shards]
    squares.append(np.asarray(right, np.float32))
    for square in squares:
        assert square.shape == (64, 64)
        assert np.std(square) == pytest.approx(1, abs=0.1) and np.mean(square) == pytest.approx(0, abs=0.1)
    assert len({square.tobytes() for square in squares}) == 9
    monkeypatch.setattr(measuring, "LARGEST_PRODUCT", 512)
    started = time.monotonic()
    product = measuring.matrix_product(mesh, "float32", repeats=1)
    elapsed = time.monotonic() - started
    assert product.size == 512
    # At least two rounds of products, each on 8 devices, were done in the time it took.
    assert product.flops_per_second > 2 * 8 * 2 * 512**3 / elapsed
