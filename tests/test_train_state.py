import numpy as np

from jaxrobust.models.weights import Weights
from jaxrobust.training.state import average


def test_average_is_the_recursion_with_a_rising_decay():
    values = np.random.default_rng(0).normal(size=30)
    averaged, expected = Weights({"w": np.zeros(())}, {"mean": np.ones(())}), np.zeros(())
    for step, value in enumerate(values):
        averaged = average(averaged, Weights({"w": value}, {"mean": 1.0}), step, 0.5)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    np.testing.assert_allclose(averaged.params["w"], expected, rtol=1e-6)
    # Batch statistics take part; those that never move stay where they are.
    np.testing.assert_allclose(averaged.batch_stats["mean"], 1.0, rtol=1e-6)
