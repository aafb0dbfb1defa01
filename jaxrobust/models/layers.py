"""What every model is built from: convolution, linear layer, batch normalisation, and the classifier around a backbone.

Initialisation, padding, momentum and epsilon are PyTorch's, so that published recipes carry over unchanged. Arrays are
NHWC, kernels HWIO. Parameters and batch statistics are float32; only convolutions and matrix products run in `dtype`.
"""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.errors import FieldError

_NHWC = ("NHWC", "HWIO", "NHWC")

# PyTorch's default for convolutions and linear layers: U(-a, a) with a = 1 / sqrt(fan_in), whose variance is a^2 / 3.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def fan_in_uniform_bias(fan_in: int) -> Callable:
    """PyTorch's default for a bias, which is bounded by the fan-in of the weights beside it."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def conv2d(x, kernel, stride: int = 1, padding: int = 0):
    """Cross-correlation of images [B, H, W, I] with a kernel [h, w, I, O], padded by zeros on all four sides alike."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=_NHWC)


def canonical_conv2d(x, kernel, stride: int = 1, padding: int = 0):
    """`conv2d` in the one form, gradients included, that XLA:CPU runs fast everywhere: NHWC by HWIO.

    XLA:CPU brings other forms into this one in the entry computation alone. Inside scan, fori_loop, while_loop and cond
    it runs them as scalar loops, and the gradients that JAX derives have other forms: a rolled attack is then several
    times slower than an unrolled one (https://github.com/jax-ml/jax/issues/12868). GPU and TPU compilers lay out every
    computation and recognise the derived form; use `conv2d` there.

    Forward-mode differentiation is not defined.
    """
    positions = math.prod(
        (n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    )
    if positions < math.prod(kernel.shape[:2]):
        # XLA exchanges image and kernel when the kernel is the larger, which ends in a scalar loop whatever the form.
        return _matmul_conv2d(x, kernel, stride, padding)
    return _canonical_conv2d(x, kernel, stride, padding)


def _matmul_conv2d(x, kernel, stride, padding):
    """One product of patches [B, H', W', h w I] and kernel [h w I, O]: for small maps, as patches take much memory."""
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
    return conv2d(x, kernel, stride, padding)


def _canonical_forward(x, kernel, stride, padding):
    return conv2d(x, kernel, stride, padding), (x, kernel)


def _canonical_backward(stride, padding, residuals, grad):
    x, kernel = residuals
    return _input_gradient(grad, x, kernel, stride, padding), _kernel_gradient(grad, x, kernel, stride, padding)


_canonical_conv2d.defvjp(_canonical_forward, _canonical_backward)


def _input_gradient(grad, x, kernel, stride, padding):
    """The output gradient, spread out by the stride, convolved with the flipped kernel from outputs to inputs."""
    pads = [
        # Enough on the right that the result is as wide as x: a stride may leave a last column that no window reached.
        (k - 1 - padding, n - stride * (m - 1) - 1 + padding)
        for k, n, m in zip(kernel.shape[:2], x.shape[1:3], grad.shape[1:3], strict=True)
    ]
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return lax.conv_general_dilated(grad, flipped, (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=_NHWC)


def _kernel_gradient(grad, x, kernel, stride, padding):
    """Correlation of x with the output gradient over batch and positions, batch and channels having changed places."""
    if kernel.shape[:2] == (1, 1):
        # A matrix product: on XLA:CPU five times faster than a convolution with a kernel as large as the image.
        x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])[:, ::stride, ::stride]
        return jnp.einsum("bhwi,bhwo->io", x, grad)[None, None]
    pads = [
        (padding, stride * (m - 1) + k - n - padding)
        for k, n, m in zip(kernel.shape[:2], x.shape[1:3], grad.shape[1:3], strict=True)
    ]
    gradient = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),  # channels in the place of the batch: I, H, W, B
        grad.transpose(1, 2, 0, 3),  # a kernel from batch to output channels: H', W', B, O
        (1, 1),
        pads,
        rhs_dilation=(stride, stride),
        dimension_numbers=_NHWC,
    )
    return gradient.transpose(1, 2, 0, 3)


class Conv(nn.Module):
    """Square convolution [B, H, W, I] -> [B, H', W', features] in `dtype`, padded by `kernel_size // 2` on every side.

    Symmetric padding, unlike `SAME`, puts the windows of a strided convolution where PyTorch puts them.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32
    canonical_gradients: bool = False

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", fan_in_uniform, shape, jnp.float32)
        convolve = canonical_conv2d if self.canonical_gradients else conv2d
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.kernel_size // 2)
        if self.use_bias:
            fan_in = self.kernel_size**2 * x.shape[-1]
            bias = self.param("bias", fan_in_uniform_bias(fan_in), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class Linear(nn.Module):
    """Affine map [B, D] -> [B, features]: operands in `dtype`, accumulation, bias and result in float32."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        fan_in = x.shape[-1]
        kernel = self.param("kernel", fan_in_uniform, (fan_in, self.features), jnp.float32)
        bias = self.param("bias", fan_in_uniform_bias(fan_in), (self.features,), jnp.float32)
        product = jnp.matmul(x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=jnp.float32)
        return product + bias.reshape(1, -1)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015), in float32; the result has the dtype of x.

    Variables are named as in `flax.linen.BatchNorm`. Two things differ. With `train` set and `batch_stats` immutable it
    normalises by the batch and records nothing: an attack in training mode asks for this, and Flax raises. And the
    running variance averages the unbiased estimate, as in PyTorch.

    Attributes:
        train: normalise by the statistics of the batch, not by the running ones.
        axis_name: mapped axis over whose devices the statistics are taken together; None takes them per device.
        momentum: weight of the old running statistics at an update; PyTorch calls 1 - momentum by that name.
        epsilon: added to the variance.
    """

    train: bool
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        y = x.astype(jnp.float32)
        if not self.train:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var, count = self._batch_statistics(y)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased

        per_channel = (1,) * (x.ndim - 1) + (channels,)
        factor = (scale * lax.rsqrt(var + self.epsilon)).reshape(per_channel)
        y = (y - mean.reshape(per_channel)) * factor + bias.reshape(per_channel)
        return y.astype(x.dtype)

    def _batch_statistics(self, x):
        """Mean [C] and biased variance [C] of float32 x, and the number of values behind each."""
        axes = tuple(range(x.ndim - 1))
        # Both sums in one pass over x: on an accelerator, batch normalisation is bound by memory traffic.
        moments = jnp.stack([x.mean(axes), jnp.square(x).mean(axes)])
        count = x.size // x.shape[-1]
        if self.axis_name is not None and not self.is_initializing():  # there is no mapped axis around `init`
            moments = lax.pmean(moments, self.axis_name)
            count *= lax.axis_size(self.axis_name)
        mean, mean_square = moments
        return mean, jnp.maximum(mean_square - jnp.square(mean), 0), count


def global_average_pool(x):
    """Mean over positions: [B, H, W, C] -> [B, C] float32."""
    return x.mean((1, 2), dtype=jnp.float32)


class Classifier(nn.Module):
    """Normalisation, backbone, linear head: images [B, H, W, C], float32 in [0, 1], to float32 logits [B, num_classes].

    A model is a subclass with a compact method `backbone(x, train)` from normalised images in `dtype` to [B, D].

    Attributes:
        num_classes: number of logits.
        dtype: of convolutions and matrix products, float32 or bfloat16.
        mean: subtracted from the pixels; one value, or one for each channel.
        std: what they are divided by afterwards; likewise.
        batch_norm_axis: mapped axis over which batch statistics are synchronised; None keeps them per device.
        canonical_gradients: see `canonical_conv2d`; the variables are the same either way.
    """

    num_classes: int
    dtype: jnp.dtype = jnp.float32
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    batch_norm_axis: str | None = None
    canonical_gradients: bool = False

    def setup(self):
        self.head = Linear(self.num_classes, self.dtype)

    def __call__(self, images, train: bool = False):
        """Logits; `batch_stats` are updated when `train` is true and the collection is mutable."""
        return self.head(self.features(images, train))

    def features(self, images, train: bool = False):
        """What the head sees, [B, D] float32: `model.apply(variables, images, method="features")`."""
        return self.backbone(self._normalize(images), train).astype(jnp.float32)

    def backbone(self, x, train: bool):
        raise NotImplementedError

    def layers(self, train: bool) -> tuple[Callable, Callable]:
        """Constructors `conv(features, kernel_size, stride)` and `norm()` with the choices of this model filled in."""
        conv = partial(Conv, dtype=self.dtype, canonical_gradients=self.canonical_gradients)
        norm = partial(BatchNorm, train=train, axis_name=self.batch_norm_axis)
        return conv, norm

    def _normalize(self, images):
        channels = images.shape[-1]
        for field, values in (("model.mean", self.mean), ("model.std", self.std)):
            if len(values) not in (1, channels):
                raise FieldError(field, values, f"images have {channels} channels", f"write 1 or {channels} values")
        mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in (self.mean, self.std))
        # Float32 until the pixels are standardised: bfloat16 cannot tell neighbouring grey values near 1 apart.
        return ((images - mean) / std).astype(self.dtype)
