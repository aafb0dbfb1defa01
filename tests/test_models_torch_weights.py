"""PyTorch weights against a forward pass in PyTorch's layouts, written with scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxrobust import models
from jaxrobust.errors import FieldError
from jaxrobust.models import torch_weights

IMAGE_SHAPE = (9, 13, 2)  # sides that differ and that pooling rounds down, to tell every axis apart
NUM_CLASSES = 5


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    sizes = {
        "conv1": (32, 2, 3, 3),
        "conv2": (64, 32, 3, 3),
        "linear1": (200, 64 * 2 * 3),
        "linear2": (NUM_CLASSES, 200),
    }
    arrays = {f"{name}.weight": rng.normal(size=size) / np.prod(size[1:]) ** 0.5 for name, size in sizes.items()}
    arrays |= {f"{name}.bias": rng.normal(size=size[0]) for name, size in sizes.items()}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def torch_lenet5(weights, image):
    """Logits of one image [C, H, W]."""
    for name in ("conv1", "conv2"):
        padded = np.pad(image, [(0, 0), (1, 1), (1, 1)])
        kernels, biases = weights[f"{name}.weight"], weights[f"{name}.bias"]
        image = np.stack(
            [signal.correlate(padded, k, mode="valid")[0] + b for k, b in zip(kernels, biases, strict=True)]
        )
        height, width = image.shape[1] // 2, image.shape[2] // 2
        windows = np.maximum(image, 0)[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2)
        image = windows.max((2, 4))
    hidden = np.maximum(weights["linear1.weight"] @ image.reshape(-1) + weights["linear1.bias"], 0)
    return weights["linear2.weight"] @ hidden + weights["linear2.bias"]


def test_lenet5_equals_its_forward_pass_in_pytorchs_layouts(tmp_path, weights):
    np.savez(tmp_path / "weights.npz", **weights)
    variables = torch_weights.to_variables("lenet5", torch_weights.load(tmp_path / "weights.npz"), IMAGE_SHAPE)
    images = np.random.default_rng(1).uniform(size=(3, *IMAGE_SHAPE)).astype(np.float32)
    logits = models.create("lenet5", num_classes=NUM_CLASSES).apply(variables, images)
    expected = np.stack([torch_lenet5(weights, image.transpose(2, 0, 1)) for image in images])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", torch_weights._SOURCES)
def test_sources_name_every_variable_once(name):
    model = models.create(name, num_classes=NUM_CLASSES)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE))))
    paths = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    assert sorted(torch_weights._SOURCES[name].variables.values()) == sorted(paths)


def test_wrong_weights_are_named(weights):
    missing = {name: array for name, array in weights.items() if name != "conv2.bias"}
    unknown = {**weights, "conv3.bias": np.zeros(3)}
    misshapen = {**weights, "conv1.weight": weights["conv1.weight"].transpose(2, 3, 1, 0)}
    for wrong, message in [
        (missing, r"\['conv2.bias'\]"),
        (unknown, r"\['conv3.bias'\]"),
        (misshapen, "'conv1.weight'"),
    ]:
        with pytest.raises(FieldError, match=f"^model.weights = {message}"):
            torch_weights.to_variables("lenet5", wrong, IMAGE_SHAPE)
    with pytest.raises(
        FieldError, match=r"^model.weights = 'linear1.weight': its shape is \(200, 384\), expected \(200, 256\)"
    ):
        torch_weights.to_variables("lenet5", weights, (8, 8, 2))
    with pytest.raises(FieldError, match=r"^model.name = 'cnn'"):
        torch_weights.to_variables("cnn", weights, IMAGE_SHAPE)


def test_files_that_are_no_archive_of_arrays_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("weights")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "pickled.npz", weights=np.array([{}], dtype=object))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("absent.npz", "text.npz", "empty.npz", "pickled.npz", "array.npy"):
        with pytest.raises(FieldError, match=r"^model.weights = "):
            torch_weights.load(tmp_path / name)
