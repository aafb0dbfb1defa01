"""Weights of published PyTorch models as variables of ours.

    weights = torch_weights.load("mnist_lenet5_advtrained.npz")
    variables = torch_weights.to_variables("lenet5", weights, image_shape=(28, 28, 1))

The file is an .npz with one array for each entry of the state dict, under PyTorch's name and in PyTorch's layout.
Another architecture is another entry of `_SOURCES`.
"""

import dataclasses
import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxrobust import models
from jaxrobust.errors import FieldError

_FIELD = "model.weights"

# From PyTorch's axes to ours, by number of axes: vectors, linear layers (out, in) and convolutions OIHW.
_AXES = {1: (0,), 2: (1, 0), 4: (0, 2, 3, 1)}


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where the entries of a state dict belong.

    Attributes:
        variables: path of our variable for each name of PyTorch's.
        flattened: for each linear weight that reads a flattened [channels, height, width] map, the channels and the
            factor by which the map's sides are smaller than the image's.
    """

    variables: dict[str, str]
    flattened: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


_SOURCES = {
    # advertorch (Ding et al. 2019), advertorch.test_utils.LeNet5
    "lenet5": _Source(
        variables={
            "conv1.weight": "params/conv1/kernel",
            "conv1.bias": "params/conv1/bias",
            "conv2.weight": "params/conv2/kernel",
            "conv2.bias": "params/conv2/bias",
            "linear1.weight": "params/hidden/kernel",
            "linear1.bias": "params/hidden/bias",
            "linear2.weight": "params/head/kernel",
            "linear2.bias": "params/head/bias",
        },
        flattened={"linear1.weight": (64, 4)},
    ),
}


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Pickled objects are refused: reading one would run its code.

    Raises:
        FieldError: there is no such file, or it is not an .npz of plain arrays.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file):  # numpy.load takes other files too
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise FieldError(_FIELD, os.fspath(path), "there is no such file", "check the path") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        remedy = "write the state dict with numpy.savez, one plain array a name"
        raise FieldError(_FIELD, os.fspath(path), f"not an .npz of plain arrays ({error})", remedy) from error


def to_variables(name: str, weights: dict[str, np.ndarray], image_shape: tuple[int, int, int]) -> dict:
    """Variables of `models.create(name, num_classes=...)`, with as many classes as the weights have logits.

    Args:
        name: of the architecture.
        weights: float arrays by PyTorch's names, in PyTorch's layouts.
        image_shape: height, width and channels of the images.

    Raises:
        FieldError: no weights of this architecture can be read; or a name is missing, unknown or has another shape.
    """
    if name not in _SOURCES:
        remedy = f"PyTorch weights can be read for {', '.join(_SOURCES)}"
        raise FieldError("model.name", name, "its PyTorch names are not known", remedy)
    source = _SOURCES[name]
    remedy = f"use the state dict of a {name} for images of shape {tuple(image_shape)}"
    if missing := sorted(source.variables.keys() - weights.keys()):
        raise FieldError(_FIELD, missing, "these arrays are missing", remedy)
    if unknown := sorted(weights.keys() - source.variables.keys()):
        raise FieldError(_FIELD, unknown, f"{name} has no such arrays", remedy)

    (head_bias,) = (theirs for theirs, ours in source.variables.items() if ours == "params/head/bias")
    shapes = _variable_shapes(name, weights[head_bias].size, image_shape)
    variables = {}
    for theirs, ours in source.variables.items():
        array, axes = weights[theirs], _AXES[len(shapes[ours])]
        expected = tuple(shapes[ours][axes.index(axis)] for axis in range(len(axes)))
        if array.shape != expected:
            raise FieldError(_FIELD, theirs, f"its shape is {array.shape}, expected {expected}", remedy)
        if theirs in source.flattened:
            array = _channels_last(array, image_shape, *source.flattened[theirs])
        variables[ours] = np.ascontiguousarray(array.transpose(axes), dtype=np.float32)
    return unflatten_dict(variables, sep="/")


def _variable_shapes(name, num_classes, image_shape) -> dict[str, tuple[int, ...]]:
    model = models.create(name, num_classes=num_classes)
    images = jnp.zeros((1, *image_shape))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return {path: variable.shape for path, variable in flatten_dict(variables, sep="/").items()}


def _channels_last(weight, image_shape, channels, factor):
    """Columns of a linear weight [out, in] in the order of a flattened NHWC map instead of a flattened NCHW one."""
    height, width = image_shape[0] // factor, image_shape[1] // factor
    return weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(weight.shape)
