import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.distributed import parallel


def test_shares_of_a_batch_follow_the_order_of_the_devices():
    mesh = parallel.make_mesh()
    array = parallel.shard(np.arange(16), mesh)
    assert [shard.data.tolist() for shard in array.addressable_shards] == [[2 * i, 2 * i + 1] for i in range(8)]
    np.testing.assert_array_equal(array, np.arange(16))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_mean_of_per_device_gradients_is_the_gradient_of_the_mean(devices):
    """The trap that check_vma=False avoids: gradients that count every device."""
    mesh = parallel.make_mesh(jax.devices()[:devices])

    @parallel.step(parallel.REPLICATED, parallel.SHARDED, out=parallel.REPLICATED)
    def gradient(w, x):
        return jax.lax.pmean(jax.grad(lambda w: (w * x).mean())(w), parallel.AXIS)

    spmd = parallel.spmd(gradient, mesh)
    x = np.arange(16, dtype=np.float32)
    assert float(spmd(parallel.replicate(jnp.ones(()), mesh), parallel.shard(x, mesh))) == x.mean()


def test_one_behind_hands_on_everything_once_the_next_has_started():
    events = []

    def started():
        for i in range(3):
            events.append(f"start {i}")
            yield i

    for i in parallel.one_behind(started()):
        events.append(f"look {i}")
    assert events == ["start 0", "start 1", "look 0", "start 2", "look 1", "look 2"]
    assert list(parallel.one_behind([])) == []
