"""Every model by its name: published sizes, shapes, precision, normalisation, features and statistics."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models
from jaxrobust.errors import FieldError
from jaxrobust.models import layers
from jaxrobust.models.resnet import BottleneckBlock, ResNet

SMALL = {"width": 2, "depth": 10, "hidden": (5, 4)}  # of every model the smallest
SLOW = ("resnet34", "resnet50")  # to compile; resnet18 with other numbers, and another block, which has its own tests
RUN = [name for name in models.NAMES if name not in SLOW]


def shapes(model, image_shape):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_shape))))


def images_and_variables(model, image_shape=(8, 8, 3), batch=4):
    """Random images, and random variables: unlike initial ones, those of batch normalisation do something too."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.float32(rng.uniform(0.5, 2, leaf.shape))
        return jnp.float32(rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5)

    images = jnp.float32(rng.uniform(size=(batch, *image_shape)))
    return images, jax.tree_util.tree_map_with_path(fill, shapes(model, image_shape))


def apply(model, variables, images, **options):
    return jax.jit(lambda variables, images: model.apply(variables, images, **options))(variables, images)


@pytest.mark.parametrize(
    "name, options, parameters",
    [
        ("linear", {}, 30_730),
        ("mlp", {"hidden": (100,)}, 308_310),
        ("resnet18", {}, 11_173_962),
        ("resnet34", {}, 21_282_122),
        ("preact_resnet18", {}, 11_172_170),
        ("preact_resnet18", {"final_batch_norm": False}, 11_171_146),
        ("wide_resnet", {"depth": 28, "width": 10}, 36_479_194),
        ("wide_resnet", {"depth": 34}, 46_160_474),
        ("resnet18", {"stem": "imagenet", "num_classes": 1000}, 11_689_512),
        ("resnet34", {"stem": "imagenet", "num_classes": 1000}, 21_797_672),
        ("resnet50", {"stem": "imagenet", "num_classes": 1000}, 25_557_032),
        ("resnet50", {}, 23_520_842),
    ],
)
def test_parameter_counts_are_the_published_ones(name, options, parameters):
    params = shapes(models.create(name, **{"num_classes": 10} | options), (32, 32, 3))["params"]
    assert sum(param.size for param in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize("name", models.NAMES)
@pytest.mark.parametrize("image_shape, num_classes", [((8, 8, 1), 2), ((13, 9, 3), 7), ((32, 32, 4), 101)])
def test_any_image_size_and_number_of_classes(name, image_shape, num_classes):
    model = models.create(name, num_classes=num_classes, mean=(0.5,), std=(0.25,), **models.options_of(name, SMALL))
    variables = shapes(model, image_shape)
    for train in (False, True):
        logits = jax.eval_shape(
            lambda v, x, train=train: model.apply(v, x, train=train), variables, jnp.zeros((3, *image_shape))
        )
        assert logits.shape == (3, num_classes) and logits.dtype == jnp.float32


@pytest.mark.parametrize("name", RUN)
def test_canonical_gradients_leave_variables_and_logits_alone(name):
    stock = models.create(name, num_classes=3, **models.options_of(name, SMALL))
    canonical = models.create(name, num_classes=3, canonical_gradients=True, **models.options_of(name, SMALL))
    images, variables = images_and_variables(stock)
    assert shapes(canonical, (8, 8, 3)) == shapes(stock, (8, 8, 3))
    np.testing.assert_allclose(apply(canonical, variables, images), apply(stock, variables, images), atol=1e-4)


@pytest.mark.parametrize("name", RUN)
def test_head_of_features_is_the_model(name):
    model = models.create(name, num_classes=3, **models.options_of(name, SMALL))
    images, variables = images_and_variables(model)
    features = apply(model, variables, images, method="features")
    assert features.ndim == 2 and features.dtype == jnp.float32
    head = variables["params"]["head"]
    np.testing.assert_allclose(
        features @ head["kernel"] + head["bias"][None], apply(model, variables, images), rtol=1e-5, atol=1e-5
    )


def test_imagenet_stem_leaves_a_thirtysecond_of_the_resolution():
    model = models.create("resnet50", num_classes=3, stem="imagenet", width=2)
    sides = {}

    def note(next_method, args, kwargs, context):
        result = next_method(*args, **kwargs)
        if getattr(result, "ndim", 0) == 4:
            sides[context.module.name] = result.shape[1]
        return result

    with nn.intercept_methods(note):
        shapes(model, (224, 224, 3))
    assert sides["stem"] == 112
    assert [sides[f"stage{stage}_block3"] for stage in (1, 2, 3, 4)] == [56, 28, 14, 7]


def test_bottleneck_block_by_hand():
    """One pixel: convolutions are products with their centres; the shortcut is a product where widths differ."""
    block = BottleneckBlock(2, 1, layers.Conv, partial(layers.BatchNorm, train=False))
    x = jnp.float32([[[[1.0, -2.0, 3.0]]]])
    variables = block.init(jax.random.key(0), x)
    params, factor = variables["params"], 1 / np.sqrt(1 + 1e-5)

    def product(y, name):
        kernel = params[name]["kernel"]
        return y @ kernel[:, kernel.shape[1] // 2, kernel.shape[2] // 2].T * factor

    y = np.maximum(product(x[0, 0], "conv1"), 0)
    y = np.maximum(product(y, "conv2"), 0)
    expected = np.maximum(product(y, "conv3") + product(x[0, 0], "shortcut"), 0)
    assert expected.shape == (1, 8)
    np.testing.assert_allclose(block.apply(variables, x)[0, 0], expected, rtol=1e-5, atol=1e-6)


def test_bottlenecks_and_the_imagenet_stem_in_either_form_of_gradients():
    images = jnp.float32(np.random.default_rng(0).uniform(size=(2, 24, 24, 3)))
    gradients = []
    for canonical in (False, True):
        model = ResNet(
            3, stage_sizes=(1, 1), block=BottleneckBlock, width=2, stem="imagenet", canonical_gradients=canonical
        )
        _, variables = images_and_variables(model, (24, 24, 3))
        loss = partial(lambda model, variables, x: (model.apply(variables, x) ** 2).sum(), model, variables)
        gradients.append(jax.jit(jax.grad(loss))(images))
    stock, canonical = gradients
    assert jnp.abs(stock).max() > 0
    np.testing.assert_allclose(canonical, stock, rtol=1e-3, atol=1e-4 * float(jnp.abs(stock).max()))


def test_features_of_the_linear_model_are_normalised_pixels():
    model = models.create("linear", num_classes=3, mean=(0.5,), std=(0.25,))
    images, variables = images_and_variables(model)
    features = apply(model, variables, images, method="features")
    np.testing.assert_allclose(features, (np.asarray(images).reshape(4, -1) - 0.5) / 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    "mean, std", [((0.5,), (0.25,)), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), ((0.1, 0.2, 0.3), (0.5,))]
)
def test_normalisation_inside_equals_normalisation_outside(mean, std):
    inside = models.create("cnn", num_classes=3, mean=mean, std=std, width=2)
    outside = models.create("cnn", num_classes=3, width=2)
    images, variables = images_and_variables(inside)
    normalised = (images - np.float32(mean).reshape(1, 1, 1, -1)) / np.float32(std).reshape(1, 1, 1, -1)
    np.testing.assert_allclose(
        apply(inside, variables, images), apply(outside, variables, normalised), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", RUN)
def test_bfloat16_is_for_computation_only(name):
    options = {**SMALL, "width": 8 if name != "wide_resnet" else 1}
    options = models.options_of(name, options)
    half = models.create(name, num_classes=3, dtype="bfloat16", **options)
    full = models.create(name, num_classes=3, **options)
    images, variables = images_and_variables(half)
    logits, updates = apply(half, variables, images, train=True, mutable=["batch_stats"])
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, logits, updates))} == {jnp.dtype("float32")}
    logits, expected = apply(half, variables, images), apply(full, variables, images)
    assert not jnp.array_equal(logits, expected)
    np.testing.assert_allclose(logits, expected, atol=0.03 * float(jnp.abs(expected).max()))


def test_training_updates_statistics_only_where_they_are_mutable():
    model = models.create("cnn", num_classes=3, width=2)
    images, variables = images_and_variables(model)
    train_logits, updates = apply(model, variables, images, train=True, mutable=["batch_stats"])
    assert set(updates) == {"batch_stats"}
    changed = jax.tree.map(lambda old, new: bool((old != new).any()), variables["batch_stats"], updates["batch_stats"])
    assert all(jax.tree.leaves(changed))

    np.testing.assert_array_equal(apply(model, variables, images, train=True), train_logits)
    eval_logits, updates = apply(model, variables, images, train=False, mutable=["batch_stats"])
    assert not np.allclose(eval_logits, train_logits)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


def test_synchronised_model_sees_the_whole_batch():
    per_device = models.create("cnn", num_classes=3, width=2)
    images, variables = images_and_variables(per_device)
    whole = apply(per_device, variables, images, train=True)
    model = models.create("cnn", num_classes=3, batch_norm_axis="data", width=2)
    shards = jax.vmap(lambda shard: apply(model, variables, shard, train=True), axis_name="data")(
        images.reshape(2, 2, 8, 8, 3)
    )
    np.testing.assert_allclose(shards.reshape(whole.shape), whole, atol=1e-4)


def test_models_trace_without_implicit_broadcasting_or_promotion():
    model = models.create("cnn", num_classes=3, dtype="bfloat16", width=2)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        variables = shapes(model, (8, 8, 3))
        jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, 8, 8, 3)), train=True), variables)


def test_no_width_is_the_models_own():
    for width in (None, 0):
        assert models.create("cnn", num_classes=3, width=width) == models.create("cnn", num_classes=3, width=32)


@pytest.mark.parametrize(
    "options, field",
    [
        ({"name": "vgg"}, "model.name"),
        ({"name": "cnn", "dtype": "float16"}, "model.dtype"),
        ({"name": "wide_resnet", "depth": 30}, "model.depth"),
        ({"name": "wide_resnet", "depth": 4}, "model.depth"),
        ({"name": "resnet50", "stem": "7x7"}, "model.stem"),
        ({"name": "preact_resnet18", "shortcut": "none"}, "model.shortcut"),
        ({"name": "cnn", "head": "round"}, "model.head"),
        ({"name": "cnn", "depth": 28}, "model.depth"),
        ({"name": "lenet5", "widht": 2}, "model.widht"),
        ({"name": "cnn", "head": "cosine", "head_scale": 0.0}, "model.head_scale"),
    ],
)
def test_what_cannot_be_built_is_named(options, field):
    with pytest.raises(FieldError, match=f"^{field} = "):
        models.create(num_classes=3, **options)


def test_normalisation_must_fit_the_channels():
    model = models.create("linear", num_classes=3, mean=(0.5, 0.5))
    with pytest.raises(FieldError, match=r"model.mean = .* 3 channels"):
        shapes(model, (8, 8, 3))


@pytest.mark.parametrize("width", [10, 0])
def test_a_title_tells_wide_resnets_apart(width):
    assert models.title("wide_resnet", {"depth": 34, "width": width}) == "wide_resnet 34-10"
    assert models.title("resnet18", {"depth": 28}) == "resnet18"
