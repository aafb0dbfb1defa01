"""Layers against scipy, numpy and the stock gradients; the compiled form of gradients inside loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxrobust import models
from jaxrobust.models import convolution, layers

# Sides even, odd, not square, and smaller than a 3x3 kernel.
CONVOLUTIONS = [
    (sides, kernel_size, stride, padding)
    for sides in [(8, 8), (7, 7), (6, 9), (2, 2), (1, 3)]
    for kernel_size in (1, 3)
    for stride in (1, 2)
    for padding in (0, 1)
    if min(sides) + 2 * padding >= kernel_size
] + [((12, 9), 7, 2, 3)]  # the stem for ImageNet


def images_and_kernel(sides, kernel_size, batch=2, inputs=3, outputs=4):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *sides, inputs)).astype(np.float32)
    return x, rng.normal(size=(kernel_size, kernel_size, inputs, outputs)).astype(np.float32)


def conv2d(x, kernel, stride, padding):
    return convolution.conv2d(x, kernel.transpose(3, 0, 1, 2), stride, padding)


def scipy_conv2d(x, kernel, stride, padding):
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    y = np.stack(
        [
            np.stack(
                [signal.correlate(image, kernel[..., o], mode="valid")[..., 0] for o in range(kernel.shape[-1])], -1
            )
            for image in x
        ]
    )
    return y[:, ::stride, ::stride]


@pytest.mark.parametrize("sides, kernel_size, stride, padding", CONVOLUTIONS)
def test_convolutions_equal_scipy_with_symmetric_padding(sides, kernel_size, stride, padding):
    x, kernel = images_and_kernel(sides, kernel_size)
    expected = scipy_conv2d(x, kernel, stride, padding)
    for convolve in (conv2d, convolution.canonical_conv2d):
        np.testing.assert_allclose(convolve(x, kernel, stride, padding), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sides, kernel_size, stride, padding", CONVOLUTIONS)
def test_canonical_gradients_equal_the_stock_gradients(sides, kernel_size, stride, padding):
    x, kernel = images_and_kernel(sides, kernel_size)
    y, stock = jax.vjp(lambda x, kernel: conv2d(x, kernel, stride, padding), x, kernel)
    _, canonical = jax.vjp(lambda x, kernel: convolution.canonical_conv2d(x, kernel, stride, padding), x, kernel)
    grad = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    for ours, theirs in zip(canonical(grad), stock(grad), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a trait of XLA:CPU")
@pytest.mark.parametrize(  # maps down to a single pixel; maps of odd sides
    "name, side",
    [("cnn", 8), ("cnn", 20), ("lenet5", 20), pytest.param("resnet18", 8, marks=pytest.mark.slow), ("resnet18", 20)],
)
def test_gradients_in_a_loop_compile_to_canonical_convolutions_only(name, side):
    """Any other convolution inside a loop runs many times slower. Should this fail with a new JAX, measure it."""
    model = models.create(name, num_classes=3, **models.options_of(name, {"width": 2}), canonical_gradients=True)
    images = jnp.zeros((4, side, side, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))

    def descend(variables, images):
        def loss(params, images):
            logits = model.apply({**variables, "params": params}, images, train=True)
            return jax.nn.logsumexp(logits, axis=-1).sum()

        def step(inputs, _):
            return jax.tree.map(jnp.subtract, inputs, jax.grad(loss, argnums=(0, 1))(*inputs)), None

        return jax.lax.scan(step, (variables["params"], images), length=3)[0]

    compiled = jax.jit(descend).lower(variables, images).compile().as_text()
    convolutions = [line for line in compiled.splitlines() if " convolution(" in line]
    assert convolutions
    for line in convolutions:
        assert "dim_labels=b01f_01io->b01f" in line and "reversal" not in line, line


@pytest.mark.parametrize("module, fan_in", [(layers.Conv(64, use_bias=True), 9 * 32), (layers.Linear(2000), 32)])
def test_initialisation_is_pytorchs_default(module, fan_in):
    shape = (1, 4, 4, 32) if isinstance(module, layers.Conv) else (1, 32)
    for name, values in module.init(jax.random.key(0), jnp.zeros(shape))["params"].items():
        bound = fan_in**-0.5
        assert jnp.abs(values).max() <= bound
        assert jnp.abs(values).max() > 0.9 * bound
        tolerance = 5 / values.size**0.5  # five standard errors or more, the kurtosis of a uniform variable being 1.8
        np.testing.assert_allclose(values.var(), bound**2 / 3, rtol=tolerance, err_msg=name)
        assert abs(values.mean()) < tolerance * bound


def batch_norm(train=True, **options):
    """A layer, and variables unlike their initial values."""
    rng = np.random.default_rng(0)
    variables = {
        "params": {"scale": rng.uniform(0.5, 2, 3), "bias": rng.normal(size=3)},
        "batch_stats": {"mean": rng.normal(size=3), "var": rng.uniform(0.5, 2, 3)},
    }
    return layers.BatchNorm(train=train, **options), jax.tree.map(jnp.float32, variables)


def test_batch_norm_statistics_equal_numpys():
    x = np.random.default_rng(1).normal(2, 3, size=(5, 4, 6, 3)).astype(np.float32)
    layer, variables = batch_norm()
    y, updates = layer.apply(variables, x, mutable=["batch_stats"])
    params, old, new = jax.device_get((variables["params"], variables["batch_stats"], updates["batch_stats"]))
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)
    expected = (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_output_equals_flaxs(train):
    x = jax.random.normal(jax.random.key(1), (5, 4, 6, 3))
    layer, variables = batch_norm(train)
    theirs, _ = nn.BatchNorm(use_running_average=not train).apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(layer.apply(variables, x), theirs, atol=1e-5)


def test_batch_norm_without_mutable_statistics_still_normalises_by_the_batch():
    x = jax.random.normal(jax.random.key(1), (5, 4, 6, 3))
    layer, variables = batch_norm()
    y, _ = layer.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_array_equal(layer.apply(variables, x), y)


def test_synchronised_statistics_are_those_of_the_whole_batch():
    x = jax.random.normal(jax.random.key(1), (6, 4, 4, 3))
    layer, variables = batch_norm()
    synchronised, _ = batch_norm(axis_name="data")
    y, updates = layer.apply(variables, x, mutable=["batch_stats"])
    shards_y, shards_updates = jax.vmap(
        lambda shard: synchronised.apply(variables, shard, mutable=["batch_stats"]), axis_name="data"
    )(x.reshape(2, 3, 4, 4, 3))
    np.testing.assert_allclose(shards_y.reshape(y.shape), y, atol=1e-5)
    for whole, shards in zip(jax.tree.leaves(updates), jax.tree.leaves(shards_updates), strict=True):
        np.testing.assert_allclose(shards, np.stack([whole, whole]), rtol=1e-5)


def plain_norm(x, residual, scale, bias, activate):
    """What `normalise_by_batch` computes, for JAX to differentiate."""
    axes = tuple(range(x.ndim - 1))
    y = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)
    y = y * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)
    y = y if residual is None else y + residual
    return jax.nn.relu(y) if activate else y


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
def test_gradients_of_normalisation_are_those_of_the_formula(activate, has_residual):
    rng = np.random.default_rng(0)
    x, residual, direction = rng.normal(1, 2, size=(3, 5, 4, 3, 6)).astype(np.float32)
    residual = residual if has_residual else None
    scale, bias = rng.normal(size=(2, 6)).astype(np.float32)

    def ours(*arguments):
        return layers.normalise_by_batch(*arguments, activate, 1e-5, None)[0]

    y, gradients = jax.vjp(ours, x, residual, scale, bias)
    expected, expected_gradients = jax.vjp(
        lambda *arguments: plain_norm(*arguments, activate), x, residual, scale, bias
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for gradient, expected in zip(
        jax.tree.leaves(gradients(direction)), jax.tree.leaves(expected_gradients(direction)), strict=True
    ):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_the_gradient_passes_where_the_normalised_value_is_positive(mean):
    """The backward pass finds the sign in its own way, so also where the mean is far from 0."""
    x = mean + np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype(np.float32)

    def normalise(bias):
        return layers.normalise_by_batch(x, None, jnp.ones(4), bias, True, 1e-5, None)[0]

    y, gradient = jax.vjp(normalise, jnp.zeros(4))
    (sums,) = gradient(jnp.ones_like(y))  # of bias: how often the result is positive
    np.testing.assert_array_equal(sums, (y > 0).sum((0, 1, 2)))


def test_relu_is_jaxs_with_its_gradient():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0])
    np.testing.assert_array_equal(layers.relu(x), jax.nn.relu(x))
    for differentiate in (jax.grad, jax.jacfwd):
        ours, theirs = (differentiate(lambda x, f=f: (f(x) ** 3 + f(x)).sum())(x) for f in (layers.relu, jax.nn.relu))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "name, train, canonical",
    [
        ("cnn", False, False),
        ("cnn", True, True),
        ("lenet5", False, True),
        ("mlp", True, False),
        ("preact_resnet18", False, True),
        pytest.param("preact_resnet18", True, False, marks=pytest.mark.slow),
        ("resnet18", True, True),
        pytest.param("resnet18", False, False, marks=pytest.mark.slow),
    ],
)
def test_prepared_weights_change_neither_logits_nor_gradients(name, train, canonical):
    model = models.create(name, num_classes=3, **models.options_of(name, {"width": 4}), canonical_gradients=canonical)
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    rng = np.random.default_rng(0)  # not the neutral statistics of the beginning
    variables = jax.tree.map(
        lambda leaf: leaf * rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) + 0.1,
        jax.jit(model.init)(jax.random.key(1), images),
    )

    @jax.jit
    def prepare(variables):
        return model.apply(variables, images[:1], train, mutable=["prepared"])[1]

    @jax.jit
    def logits_and_gradient(variables):
        def loss(images):
            logits = model.apply(variables, images, train)
            return jax.nn.logsumexp(logits, -1).sum(), logits

        gradient, logits = jax.grad(loss, has_aux=True)(images)
        return logits, gradient

    prepared = prepare(variables)
    assert prepared["prepared"]
    (logits, gradient), expected = logits_and_gradient(variables | prepared), logits_and_gradient(variables)
    np.testing.assert_allclose(logits, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype, error", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)])
def test_a_batch_norm_in_the_kernel_is_the_batch_norm_after_it(dtype, error):
    """By running statistics; the convolution has a bias of its own. bfloat16 keeps 8 bits of numbers up to about 6."""
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 4))
    conv = layers.Conv(3, use_bias=True)
    weights = conv.init(jax.random.key(2), x)
    norm, variables = batch_norm(train=False)

    class Folded(nn.Module):
        @nn.compact
        def __call__(self, x):
            conv = layers.Conv(3, use_bias=True, dtype=dtype, name="conv")
            return layers.BatchNorm(train=False, name="norm")(x, conv=conv)

    folded = Folded().apply(
        {
            "params": {"conv": weights["params"], "norm": variables["params"]},
            "batch_stats": {"norm": variables["batch_stats"]},
        },
        x,
    )
    assert folded.dtype == dtype
    expected = norm.apply(variables, conv.apply(weights, x))
    np.testing.assert_allclose(folded.astype(np.float32), expected, rtol=error, atol=error)


@pytest.mark.parametrize("height, width", [(8, 6), (7, 9), (1, 2)])
def test_max_pool_and_its_gradient_are_those_of_reduce_window(height, width):
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, height, width, 3)))  # no two equal

    def reference(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    def gradient(pool):
        return jax.grad(lambda x: (pool(x) ** 3).sum())(x)

    np.testing.assert_array_equal(layers.max_pool(x), reference(x))
    np.testing.assert_allclose(gradient(layers.max_pool), gradient(reference), rtol=1e-6)
    assert layers.max_pool(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_equal_maxima_share_the_gradient_and_lose_none_of_it():
    gradient = jax.grad(lambda x: layers.max_pool(x).sum())(jnp.ones((1, 6, 6, 1)))
    assert gradient.sum() == 9 and (gradient >= 0).all()


@pytest.fixture
def cosine_head():
    head = layers.CosineLinear(3, scale=10.0)
    features = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    return head, head.init(jax.random.key(0), features), features


def test_a_cosine_head_is_its_formula(cosine_head):
    head, variables, features = cosine_head
    kernel = np.float64(variables["params"]["kernel"])
    directions = kernel / (np.linalg.norm(kernel, axis=0) + 1 / 32)
    expected = 10 * features / np.linalg.norm(features, axis=1, keepdims=True) @ directions
    np.testing.assert_allclose(head.apply(variables, features), expected, rtol=1e-5)
    np.testing.assert_allclose(head.apply(variables, 100 * features), expected, rtol=1e-5)
    shifted = {"params": variables["params"] | {"bias": jnp.array([1.0, 0.0, -1.0])}}
    np.testing.assert_allclose(head.apply(shifted, features), expected + np.array([[1, 0, -1]]), rtol=1e-4)


def test_a_cosine_head_has_finite_gradients_at_zero_and_trains_no_bias(cosine_head):
    head, variables, features = cosine_head
    features = np.concatenate([np.zeros_like(features[:1]), features])
    variables = jax.tree.map(lambda leaf: leaf.at[..., 0].set(0), variables)  # nor has the first class a direction

    def loss(variables, features):
        return jnp.square(head.apply(variables, features) - 1).sum()

    gradients, for_features = jax.grad(loss, (0, 1))(variables, features)
    assert np.isfinite(for_features).all() and np.isfinite(gradients["params"]["kernel"]).all()
    assert np.any(for_features[0]) and np.any(gradients["params"]["kernel"][:, 0]), "a way out of 0"
    assert not np.any(gradients["params"]["bias"])


@pytest.mark.parametrize("name", ["linear", "cnn"])
def test_a_cosine_head_has_the_variables_of_a_linear_one_and_can_be_prepared(name):
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    options = models.options_of(name, {"width": 4})
    linear = models.create(name, num_classes=3, **options)
    cosine = models.create(name, num_classes=3, head="cosine", head_scale=30.0, **options)
    variables = cosine.init(jax.random.key(0), images)
    shapes = lambda variables: jax.tree.map(jnp.shape, variables)  # noqa: E731
    assert shapes(variables) == shapes(linear.init(jax.random.key(0), images))
    logits, prepared = cosine.apply(variables, images, mutable=["prepared"])
    np.testing.assert_array_equal(cosine.apply(variables | prepared, images), logits)
    assert np.abs(logits).max() <= 30
