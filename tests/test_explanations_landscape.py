"""The radius that breaks an image to first order is the radius that breaks it, of linear models."""

import numpy as np
import pytest

from jaxrobust.explanations import landscape

RNG = np.random.default_rng(1)
# By norm: the dual norm of the gradients, over the first axis, and the perturbations of size 1 that attain it.
DUAL = {
    "linf": (lambda g: np.abs(g).sum(0), np.sign),
    "l2": (lambda g: np.linalg.norm(g, axis=0), lambda g: g / np.linalg.norm(g, axis=0)),
    "l1": (lambda g: np.abs(g).max(0), lambda g: np.sign(g) * (np.abs(g) == np.abs(g).max(0))),
}


@pytest.mark.parametrize("norm", DUAL)
def test_the_best_perturbation_of_that_size_takes_the_margin_to_zero(norm):
    margin, gradient = np.concatenate([[-0.5, -0.1, 0.0], RNG.uniform(0.1, 2.0, 21)]), RNG.normal(size=(24, 24))
    size, best = DUAL[norm]
    estimate = landscape.radius_estimate(margin, size(gradient))
    assert (estimate[:3] == 0).all() and (estimate[3:] > 0).all()
    moved = margin - estimate * (best(gradient) * gradient).sum(0)
    np.testing.assert_allclose(moved[3:], 0, atol=1e-12)


def test_without_a_gradient():
    assert landscape.radius_estimate([1.0, -1.0, 2.0], [0.0, 0.0, 4.0]).tolist() == [np.inf, 0.0, 0.5]
