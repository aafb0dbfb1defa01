"""Arithmetic by hand: convolutions, their gradients, matrix products, loops."""

import jax
import jax.numpy as jnp
import pytest

from jaxrobust.performance.compiled import flops

X = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 3, 8), jnp.float32)


def conv2d(x, kernel, stride, padding):
    """NHWC by HWIO."""
    pads = [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("stride, side", [(1, 16), (2, 8)])
def test_a_convolution_and_its_gradients_cost_the_same(stride, side):
    """Padding counts as pixels do; the holes that a stride leaves in the output gradient do not."""
    once = 2 * (2 * side * side * 8) * (3 * 3 * 3)

    def total(x, kernel):
        return conv2d(x, kernel, stride, 1).sum()

    assert flops.forward(total, X, KERNEL) == once
    assert flops.forward(jax.grad(total, argnums=0), X, KERNEL) == 2 * once
    assert flops.forward(jax.grad(total, argnums=(0, 1)), X, KERNEL) == 3 * once


def test_a_one_by_one_convolution_with_a_stride():
    kernel = jax.ShapeDtypeStruct((1, 1, 3, 8), jnp.float32)
    once = 2 * (2 * 8 * 8 * 8) * 3
    assert flops.forward(jax.grad(lambda x, k: conv2d(x, k, 2, 0).sum(), argnums=(0, 1)), X, kernel) == 3 * once


def test_grouped_convolutions_sum_over_the_channels_of_their_group():
    def depthwise(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
        )

    kernel = jax.ShapeDtypeStruct((3, 3, 1, 3), jnp.float32)
    assert flops.forward(depthwise, X, kernel) == 2 * (2 * 16 * 16 * 3) * 9


def test_an_image_and_a_kernel_that_have_changed_places():
    # Pixels x taps: the image as the kernel, slid over the padded kernel.
    assert flops.convolution(1, 1, [(3, 32, 32, 1, 1, 1)]) == flops.convolution(1, 1, [(32, 3, 32, 1, 1, 1)])


def test_matrix_products_in_loops_and_branches():
    matrix = jax.ShapeDtypeStruct((4, 5, 5), jnp.float32)
    once = 2 * 4 * 5 * 5 * 5

    def scanned(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]

    def branched(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x, x)

    assert flops.forward(lambda x: x @ x, matrix) == once
    assert flops.forward(jax.jit(scanned), matrix) == 7 * once
    assert flops.forward(branched, matrix) == 2 * once
    assert flops.forward(lambda x: jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x - 1, x), matrix) == 0
    with pytest.raises(ValueError, match="unknown length"):
        flops.forward(lambda x: jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ x, x), matrix)
