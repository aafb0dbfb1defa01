"""Rules for rare classes against published numbers and invariants."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.remedies import long_tail
from jaxrobust.remedies.rule import Run

# Of CIFAR-10 with an exponential imbalance of 0.01 and of 0.02.
HUNDREDTH = jnp.array([5000.0, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
FIFTIETH = jnp.array([5000.0, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100])


def test_effective_number_against_the_published_code():
    weights = long_tail.effective_number(HUNDREDTH, 0.9999)
    expected = [0.05061, 0.0769, 0.12113, 0.19504, 0.31881, 0.52459, 0.86835, 1.44263, 2.40922, 3.99272]
    np.testing.assert_allclose(weights, expected, rtol=2e-4)


def test_effective_number_lies_between_no_weighting_and_inverse_frequency():
    np.testing.assert_allclose(long_tail.effective_number(HUNDREDTH, 0.0), np.ones(10), rtol=1e-6)
    # Nearer to 1 than a float32 can say.
    almost_one = long_tail.effective_number(HUNDREDTH, 1 - 1e-9)
    np.testing.assert_allclose(almost_one, long_tail.inverse_frequency(HUNDREDTH), rtol=1e-3)


def test_ldam_margins_against_the_published_code():
    expected = [0.15811, 0.1797, 0.20424, 0.23209, 0.26383, 0.29977, 0.34068, 0.38722, 0.4405, 0.5]
    np.testing.assert_allclose(long_tail.ldam_margin(HUNDREDTH, 0.5), expected, atol=1e-5)


def test_radius_by_rarity_against_the_published_code():
    expected = [0.7, 1.0033, 1.1289, 1.2253, 1.3066, 1.3783, 1.4429, 1.5026, 1.558, 1.6097]
    scale = long_tail.radius_by_rarity(FIFTIETH, 0.3)
    np.testing.assert_allclose(scale, expected, atol=1e-4)
    np.testing.assert_allclose((scale * FIFTIETH).sum() / FIFTIETH.sum(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("power, shares", [(1.0, FIFTIETH / FIFTIETH.sum()), (0.0, jnp.full(10, 0.1))])
def test_sampling_draws_classes_in_proportion_to_a_power(power, shares):
    drawn = FIFTIETH * long_tail.sampling_by_power(FIFTIETH, power)
    np.testing.assert_allclose(drawn / drawn.sum(), shares, rtol=1e-5)


def test_progressive_sampling_mixes_the_shares_of_classes():
    drawn = FIFTIETH * long_tail.progressive_sampling(FIFTIETH, 0.25)
    expected = 0.75 * FIFTIETH / FIFTIETH.sum() + 0.25 / 10
    np.testing.assert_allclose(drawn / drawn.sum(), expected, rtol=1e-5)


def test_scales_of_cdt_and_vs():
    """CDT divides a logit by (n_max / n_c)^tau."""
    np.testing.assert_allclose(
        long_tail.relative_size(HUNDREDTH, 0.3), 1 / (5000 / np.asarray(HUNDREDTH)) ** 0.3, rtol=1e-6
    )


COSINE = Run(num_epochs=10, first_epoch=0, knobs=(), beta=6.0, head_scale=10.0)


def test_robal_by_hand():
    """s * ((tau_m / s) log(n_c / n_min) + m) comes off the true logit, with s = 10 and m = 0.1."""
    rule = long_tail.robal(COSINE, margin=0.1, margin_tau=0.3, prior_tau=1.5)
    values = rule.knob_values({}, FIFTIETH, 0.0)
    n = np.asarray(FIFTIETH)
    np.testing.assert_allclose(values["margin"], 10 * (0.03 * np.log(n / n.min()) + 0.1), rtol=1e-5)
    np.testing.assert_allclose(values["log_prior"], 1.5 * np.log(n / n.sum()), rtol=1e-5)


def test_the_margin_of_ldam_is_one_of_the_cosine():
    """s (cos - m): for a head of cosines s times as much comes off the logit."""
    values = long_tail.ldam(COSINE, largest_margin=0.5).knob_values({}, FIFTIETH, 0.0)
    np.testing.assert_allclose(values["margin"], 10 * long_tail.ldam_margin(FIFTIETH, 0.5), rtol=1e-6)
