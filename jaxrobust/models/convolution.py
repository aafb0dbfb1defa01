"""Two-dimensional convolution of NHWC images, in forms that are fast on each kind of device."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

_NHWC = ("NHWC", "HWIO", "NHWC")


def conv2d(x, kernel, stride: int = 1, padding: int = 0):
    """Cross-correlation of images [B, H, W, I] with a kernel [O, h, w, I], with the same zero padding on all sides.

    cuDNN computes in the layout OHWI: kernels stored in another layout are transposed at every use and update.
    """
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "OHWI", "NHWC"))


def canonical_conv2d(x, kernel, stride: int = 1, padding: int = 0):
    """`conv2d` with a kernel [h, w, I, O], in the only form that XLA:CPU runs fast everywhere, also for gradients.

    XLA:CPU converts other forms to this one only in the entry computation. Inside scan, fori_loop, while_loop and cond
    it runs them as slow scalar loops. The gradients that JAX derives have other forms, so a rolled attack would be
    several times slower than an unrolled one (https://github.com/jax-ml/jax/issues/12868). GPU and TPU compilers
    recognise the derived forms; use `conv2d` there.

    Forward-mode differentiation is not supported.
    """
    positions = math.prod(
        (n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    )
    if positions < math.prod(kernel.shape[:2]):
        # XLA swaps image and kernel if the kernel is larger, and then always runs a scalar loop.
        return _matmul_conv2d(x, kernel, stride, padding)
    return _canonical_conv2d(x, kernel, stride, padding)


def _matmul_conv2d(x, kernel, stride, padding):
    """One product of patches [B, H', W', h w I] and kernel [h w I, O]. Only for small maps: patches need memory."""
    rows, columns, _, features = kernel.shape
    x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    last_row, last_column = x.shape[1] - rows, x.shape[2] - columns
    taps = [
        x[:, row : row + last_row + 1 : stride, column : column + last_column + 1 : stride]
        for row in range(rows)
        for column in range(columns)
    ]
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, features)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical_conv2d(x, kernel, stride, padding):
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_NHWC)


def _canonical_forward(x, kernel, stride, padding):
    return _canonical_conv2d(x, kernel, stride, padding), (x, kernel)


def _canonical_backward(stride, padding, residuals, grad):
    x, kernel = residuals
    return _input_gradient(grad, x, kernel, stride, padding), _kernel_gradient(grad, x, kernel, stride, padding)


_canonical_conv2d.defvjp(_canonical_forward, _canonical_backward)


def _input_gradient(grad, x, kernel, stride, padding):
    """The output gradient, dilated by the stride, convolved with the flipped kernel from outputs to inputs."""
    pads = [
        # Padded on the right so that the result is as wide as x: with a stride the last column may be in no window.
        (k - 1 - padding, n - stride * (m - 1) - 1 + padding)
        for k, n, m in zip(kernel.shape[:2], x.shape[1:3], grad.shape[1:3], strict=True)
    ]
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return lax.conv_general_dilated(grad, flipped, (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=_NHWC)


def _kernel_gradient(grad, x, kernel, stride, padding):
    """Correlation of x with the output gradient over batch and positions, with batch and channels swapped."""
    if kernel.shape[:2] == (1, 1):
        # A matrix product: on XLA:CPU five times faster than a convolution with a kernel as large as the image.
        x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])[:, ::stride, ::stride]
        return jnp.einsum("bhwi,bhwo->io", x, grad)[None, None]
    pads = [
        (padding, stride * (m - 1) + k - n - padding)
        for k, n, m in zip(kernel.shape[:2], x.shape[1:3], grad.shape[1:3], strict=True)
    ]
    gradient = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),  # channels take the position of the batch: I, H, W, B
        grad.transpose(1, 2, 0, 3),  # a kernel from batch to output channels: H', W', B, O
        (1, 1),
        pads,
        rhs_dilation=(stride, stride),
        dimension_numbers=_NHWC,
    )
    return gradient.transpose(1, 2, 0, 3)
