"""The parts of all models: convolution, linear layers, batch normalisation, and the classifier around a backbone.

Initialisation, padding, momentum and epsilon are those of PyTorch, so that published recipes work without changes.
Arrays are NHWC, kernels OHWI. Parameters and batch statistics are float32; convolutions, matrix products and the
activations between them are in `dtype`.

Some results depend only on the weights (their cast to `dtype`, a batch norm multiplied into a kernel). They can be
computed once for many passes, for example for all steps of an attack:

    _, prepared = model.apply(variables, images, train, mutable=["prepared"])
    logits = model.apply({**variables, **prepared}, images, train)    # the same logits as without `prepared`
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.errors import FieldError
from jaxrobust.models.convolution import canonical_conv2d, conv2d

COSINE_GAMMA = 1 / 32  # added to the norm of a cosine head's rows

# PyTorch's default for convolutions and linear layers: U(-a, a) with a = 1 / sqrt(fan_in), whose variance is a^2 / 3.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def fan_in_uniform_bias(fan_in: int) -> Callable:
    """PyTorch's default for a bias: uniform, with bounds from the fan-in of the weights of the same layer."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@jax.custom_jvp
def relu(x):
    """max(x, 0). Its derivative uses the result, so that the input need not be stored for the backward pass."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals, tangents):
    y = relu(*primals)
    return y, jnp.where(y != 0, tangents[0], 0)


class _Layer(nn.Module):
    """A layer that can reuse what it prepared from its weights; see the module's docstring."""

    def prepared(self, name: str, compute: Callable):
        """compute(), or its stored result if the weights were prepared."""
        if self.is_initializing():
            return compute()
        if self.has_variable("prepared", name) or self.is_mutable_collection("prepared"):
            return self.variable("prepared", name, compute).value
        return compute()


class Conv(_Layer):
    """Square convolution [B, H, W, I] -> [B, H', W', features] in `dtype`, padded by `kernel_size // 2` on every side.

    With this symmetric padding, unlike with `SAME`, a strided convolution has the same windows as in PyTorch.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32
    canonical_gradients: bool = False

    @nn.compact
    def __call__(self, x, factor=None, shift=None):
        """The convolution of x, times `factor` [features] plus `shift` [features] if they are given."""
        kernel = self.param("kernel", self._init_kernel, x.shape[-1])
        if self.use_bias:
            fan_in = self.kernel_size**2 * x.shape[-1]
            bias = self.param("bias", fan_in_uniform_bias(fan_in), (self.features,), jnp.float32)
            shift = bias if shift is None else shift + bias * factor

        def cast_kernel():
            scaled = kernel if factor is None else kernel * factor.reshape(-1, 1, 1, 1)
            return (scaled.transpose(1, 2, 3, 0) if self.canonical_gradients else scaled).astype(self.dtype)

        convolve = canonical_conv2d if self.canonical_gradients else conv2d
        y = convolve(x.astype(self.dtype), self.prepared("kernel", cast_kernel), self.stride, self.kernel_size // 2)
        if shift is not None:
            y = y + self.prepared("shift", lambda: shift.astype(self.dtype)).reshape(1, 1, 1, -1)
        return y

    def _init_kernel(self, key, inputs):
        """A kernel OHWI; fan-in and fan-out are those of HWIO, where initialisers look for them."""
        shape = (self.kernel_size, self.kernel_size, inputs, self.features)
        return fan_in_uniform(key, shape, jnp.float32).transpose(3, 0, 1, 2)


class Linear(_Layer):
    """Affine map [B, D] -> [B, features]: operands in `dtype`, accumulation, bias and result in float32."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        fan_in = x.shape[-1]
        kernel = self.param("kernel", fan_in_uniform, (fan_in, self.features), jnp.float32)
        bias = self.param("bias", fan_in_uniform_bias(fan_in), (self.features,), jnp.float32)
        kernel = self.prepared("kernel", lambda: kernel.astype(self.dtype))
        product = jnp.matmul(x.astype(self.dtype), kernel, preferred_element_type=jnp.float32)
        return product + bias.reshape(1, -1)


class CosineLinear(_Layer):
    """Scaled cosines [B, D] -> [B, features]: scale * <h / |h|, w_c / (|w_c| + 1/32)> (RoBal, Wu et al. 2021).

    Variables and precision are those of `Linear`. The bias is added too, but it starts at 0 and gets no gradient: the
    published heads have none, and it is only for adjustments after the training.
    """

    features: int
    scale: float  # the factor of the cosines; it replaces the norms, on which the logits do not depend
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", fan_in_uniform, (x.shape[-1], self.features), jnp.float32)
        bias = lax.stop_gradient(self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32))

        def cast_directions():
            return (kernel / (safe_norm(kernel, axis=0) + COSINE_GAMMA)).astype(self.dtype)

        directions = self.prepared("kernel", cast_directions)
        x = (x / safe_norm(x, axis=-1)).astype(self.dtype)
        return self.scale * jnp.matmul(x, directions, preferred_element_type=jnp.float32) + bias.reshape(1, -1)


def safe_norm(x, axis: int):
    """L2 norm along an axis, which is kept; at least 1e-6, so that quotients and their gradients are finite at 0."""
    return jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis, keepdims=True), 1e-12))


class BatchNorm(_Layer):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015); the result has the dtype of x.

    With the statistics of the batch it computes in float32. With running statistics it is folded into the preceding
    convolution, if there is one: kernel times factor, and shift, are computed in float32, then rounded to the dtype of
    the convolution.

    Variables are named as in `flax.linen.BatchNorm`, from which it differs in two points. With `train` set and
    `batch_stats` immutable it normalises by the batch and updates nothing, as attacks in training mode require; Flax
    raises. And the running variance averages the unbiased estimate, as in PyTorch.

    The operations around a batch norm are part of it because this is faster: with running statistics, batch norm is a
    factor of the preceding kernel and a shift; and gradients through batch norm and ReLU need one pass less.
    """

    train: bool  # normalise by the statistics of the batch, not by the running ones
    # mapped axis over whose devices the statistics are computed together; None: per device.
    axis_name: str | None = None
    momentum: float = 0.9  # weight of the old running statistics at an update; PyTorch's `momentum` is 1 minus this
    epsilon: float = 1e-5  # added to the variance

    @nn.compact
    def __call__(self, x, *, conv: Conv | None = None, residual=None, activate: bool = False):
        """relu(normalise(conv(x)) + residual); all parts but `normalise` are optional."""
        channels = x.shape[-1] if conv is None else conv.features
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        if self.train:
            x = x if conv is None else conv(x)
            # `init` runs outside of the mapped axis.
            axis_name = None if self.is_initializing() else self.axis_name
            y, mean, var = normalise_by_batch(x, residual, scale, bias, activate, self.epsilon, axis_name)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                count = x.size // channels * (lax.axis_size(axis_name) if axis_name else 1)
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
            return y

        factor = scale * lax.rsqrt(running_var.value + self.epsilon)
        shift = bias - running_mean.value * factor
        y = self._affine(x, factor, shift) if conv is None else conv(x, factor, shift)
        y = y if residual is None else y + residual
        return relu(y) if activate else y

    def _affine(self, x, factor, shift):
        factor, shift = self.prepared("affine", lambda: (factor, shift))
        per_channel = (1,) * (x.ndim - 1) + (-1,)
        return (x.astype(jnp.float32) * factor.reshape(per_channel) + shift.reshape(per_channel)).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def normalise_by_batch(x, residual, scale, bias, activate: bool, epsilon: float, axis_name: str | None):
    """Batch normalisation by the statistics of x, optionally followed by an addition and a ReLU.

    It has its own gradient because the cost of batch normalisation on an accelerator is memory traffic: x is read twice
    in the forward pass, and twice in the backward pass together with the gradient. Forward-mode differentiation is not
    supported. The variance is computed in one pass as the mean square minus the squared mean, so it loses digits for a
    channel whose mean is hundreds of standard deviations.

    Args:
        x: [..., C] in any float type; statistics and arithmetic are float32.
        residual: added before the activation, shaped like x, or None.
        scale, bias: [C] float32.
        activate: whether to apply ReLU.
        epsilon: added to the variance.
        axis_name: mapped axis over which statistics are computed together, or None.

    Returns:
        The result in the type of x, and mean [C] and biased variance [C], through which no gradient flows.
    """
    return _normalise_forward(x, residual, scale, bias, activate, epsilon, axis_name)[0]


def _normalise_forward(x, residual, scale, bias, activate, epsilon, axis_name):
    z = x.astype(jnp.float32)
    mean, mean_square = _mean_over_devices(_means(z, jnp.square(z)), axis_name)
    var = jnp.maximum(mean_square - jnp.square(mean), 0)
    factor = scale * lax.rsqrt(var + epsilon)
    y = (z - _per_channel(mean, x)) * _per_channel(factor, x) + _per_channel(bias, x)
    if residual is not None:
        y = y + residual
    y = (jnp.maximum(y, 0) if activate else y).astype(x.dtype)
    return (y, mean, var), (x, residual, y if activate and residual is not None else None, scale, bias, mean, var)


def _normalise_backward(activate, epsilon, axis_name, saved, gradients):
    x, residual, y, scale, bias, mean, var = saved
    g = gradients[0].astype(jnp.float32)
    inverse = lax.rsqrt(var + epsilon)
    standardised = (x.astype(jnp.float32) - _per_channel(mean, x)) * _per_channel(inverse, x)
    if activate and y is None:
        # The sign of the result is computed again from x, which is read anyway. The formula differs from that of the
        # forward pass: otherwise the compiler would store the signs there and read them here.
        factor = scale * inverse
        positive = x.astype(jnp.float32) * _per_channel(factor, x) + _per_channel(bias - mean * factor, x) > 0
        g = jnp.where(positive, g, 0)
    elif activate:
        g = jnp.where(y != 0, g, 0)
    means = _means(g, g * standardised)
    grad_bias, grad_scale = (mean * (x.size // x.shape[-1]) for mean in means)
    mean_g, mean_gz = _mean_over_devices(means, axis_name)
    grad_x = g - _per_channel(mean_g, x) - standardised * _per_channel(mean_gz, x)
    grad_x = (grad_x * _per_channel(scale * inverse, x)).astype(x.dtype)
    return grad_x, None if residual is None else g.astype(residual.dtype), grad_scale, grad_bias


normalise_by_batch.defvjp(_normalise_forward, _normalise_backward)


def _per_channel(values, like):
    """[C] -> [1, ..., 1, C], so that it broadcasts over arrays of the rank of `like`."""
    return values.reshape((1,) * (like.ndim - 1) + (-1,))


def _means(one, other):
    """Means [2, C] of two arrays [B, ..., C] over all axes but the last, in one pass over both."""
    # Over positions first: both sums are then one kernel, and the rest is small enough for a second one.
    positions = tuple(range(1, one.ndim - 1))
    sums = jnp.concatenate([one.sum(positions), other.sum(positions)], axis=-1).sum(0)
    return tuple(sum_ / (one.size // one.shape[-1]) for sum_ in jnp.split(sums, 2))


def _mean_over_devices(values, axis_name):
    return values if axis_name is None else lax.pmean(values, axis_name)


def max_pool(x):
    """Maximum over windows of 3 x 3 with stride 2, padded by 1: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C].

    Computed as maxima of shifted slices, along rows and then columns: the gradient of `lax.reduce_window` is a scatter,
    several times slower on a CPU. If several inputs are equal to the maximum, they share the gradient.
    """
    for axis in (1, 2):
        last = (x.shape[axis] - 1) // 2 * 2  # where the last window begins
        widths = [(0, 0, 0)] * x.ndim
        widths[axis] = (1, 1, 0)
        padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), widths)
        first, second, third = (lax.slice_in_dim(padded, k, k + last + 1, 2, axis) for k in range(3))
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


def global_average_pool(x):
    """Mean over positions: [B, H, W, C] -> [B, C] float32."""
    return x.mean((1, 2), dtype=jnp.float32)


class Classifier(nn.Module):
    """Normalisation, backbone, head: images [B, H, W, C], float32 in [0, 1], to float32 logits [B, num_classes].

    A model is a subclass with a compact method `backbone(x, train)` from normalised images in `dtype` to [B, D].
    """

    num_classes: int  # number of logits
    dtype: jnp.dtype = jnp.float32  # of convolutions and matrix products, float32 or bfloat16
    mean: tuple[float, ...] = (0.0,)  # subtracted from the pixels; one value, or one for each channel
    std: tuple[float, ...] = (1.0,)  # the divisor after that; likewise
    # mapped axis over which batch statistics are synchronised; None keeps them per device.
    batch_norm_axis: str | None = None
    canonical_gradients: bool = False  # see `canonical_conv2d`; the variables are the same either way
    head_kind: str = "linear"  # `linear`, or `cosine`, see `CosineLinear`; the variables are the same either way
    head_scale: float = 10.0  # of the cosine head

    def setup(self):
        if self.head_kind == "cosine":
            self.head = CosineLinear(self.num_classes, self.head_scale, self.dtype)
        else:
            self.head = Linear(self.num_classes, self.dtype)

    def __call__(self, images, train: bool = False):
        """Logits; `batch_stats` are updated when `train` is true and the collection is mutable."""
        return self.head(self.features(images, train))

    def features(self, images, train: bool = False):
        """The input of the head, [B, D] float32: `model.apply(variables, images, method="features")`."""
        return self.backbone(self._normalize(images), train).astype(jnp.float32)

    def layers(self, train: bool) -> tuple[Callable, Callable]:
        """Constructors `conv(features, kernel_size, stride)` and `norm()` with the options of this model filled in."""
        conv = partial(Conv, dtype=self.dtype, canonical_gradients=self.canonical_gradients)
        norm = partial(BatchNorm, train=train, axis_name=self.batch_norm_axis)
        return conv, norm

    def _normalize(self, images):
        channels = images.shape[-1]
        for field, values in (("model.mean", self.mean), ("model.std", self.std)):
            if len(values) not in (1, channels):
                counts = " or ".join(map(str, sorted({1, channels})))
                raise FieldError(field, values, f"images have {channels} channels", f"write {counts} values")
        mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in (self.mean, self.std))
        # Float32 until the pixels are standardised: in bfloat16, adjacent grey values near 1 are equal.
        return ((images - mean) / std).astype(self.dtype)
