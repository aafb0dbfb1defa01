import jax
import numpy as np

from jaxrobust import remedies
from jaxrobust.remedies import knobs


def test_none_starts_neutral_and_never_moves():
    remedy = remedies.create("none")
    start, memory = remedy.start(np.array([5, 50, 500]))
    jax.tree.map(np.testing.assert_array_equal, start, knobs.neutral(3))
    after, memory = remedy.observe(start, memory, statistics=None)
    assert after is start and memory == {}


def test_neutral_values():
    neutral = knobs.neutral(4)
    for name in ("weight_natural", "weight_robust", "radius_scale", "beta_scale", "sampling"):
        np.testing.assert_array_equal(getattr(neutral, name), np.ones(4))
    for name in ("margin", "log_prior"):
        np.testing.assert_array_equal(getattr(neutral, name), np.zeros(4))
