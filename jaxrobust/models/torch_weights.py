"""PyTorch weights as variables of our models, and back.

    arrays = torch_weights.load("resnet18.safetensors")
    variables = torch_weights.to_variables("resnet18", arrays, image_shape=(32, 32, 3))
    arrays = torch_weights.from_variables("resnet18", variables, image_shape=(32, 32, 3))
    torch_weights.encode(".safetensors", arrays)

A file holds one array for each entry of a state dict, under PyTorch's name and in PyTorch's layout. Reading a file
never runs code from it: pickled objects are refused.
"""

import io
import json
import os
import pathlib
import pickle
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxrobust import files, models
from jaxrobust.errors import FieldError, listed
from jaxrobust.models import torch_names

_FIELD = "path"  # the argument that the file is
_SHOWN = 3  # number of names listed in a message

# From PyTorch's axes to ours, by number of axes: linear layers (out, in), convolutions OIHW, and others as they are.
_AXES = {1: (0,), 2: (1, 0), 3: (0, 1, 2), 4: (0, 2, 3, 1)}

# The linear layer whose input is a flattened map: its name, the channels of the map (None: those of the image), and the
# size of the image divided by that of the map. PyTorch flattens channels first.
_FLATTENED = {"linear": ("head", None, 1), "mlp": ("hidden1", None, 1), "lenet5": ("hidden", 64, 4)}

# Keys under which training scripts store the state dict in a checkpoint; the first one found is used.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "last")


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors, .npz, .pt or .pth file by name; only the last two need PyTorch.

    The metadata `mean` and `std` of a .safetensors file, which `encode` writes, are returned as arrays of these names.

    Raises:
        FieldError: there is no such file, its suffix is another, or it holds anything other than plain arrays.
    """
    name = os.fspath(path)
    readers = {
        ".safetensors": (_read_safetensors, "write the state dict with safetensors.torch.save_file"),
        ".npz": (files.read_npz, "write the state dict with numpy.savez, one plain array per name"),
        ".pt": (_read_torch, "write the state dict alone, with torch.save or safetensors.torch.save_file"),
    }
    readers[".pth"] = readers[".pt"]
    suffix = pathlib.Path(path).suffix
    if suffix not in readers:
        raise FieldError(_FIELD, name, "its suffix is not that of a weight file", listed(readers))
    read, remedy = readers[suffix]
    if not os.path.isfile(path):
        raise FieldError(_FIELD, name, "there is no such file", "check the path")
    try:
        return read(path)
    except FieldError:
        raise
    except Exception as error:  # each library raises its own for damaged or malicious files
        reason = " ".join(str(error).split())[:200]
        raise FieldError(_FIELD, name, f"is not a {suffix} file of plain arrays ({reason})", remedy) from error


def _read_safetensors(path):
    content = pathlib.Path(path).read_bytes()
    # Not safetensors.numpy.load, which does not know bfloat16.
    types = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64}
    arrays = {}
    for name, entry in safetensors.deserialize(content):
        if entry["dtype"] not in types:
            raise ValueError(f"{name} is of type {entry['dtype']}")
        arrays[name] = np.frombuffer(entry["data"], types[entry["dtype"]]).reshape(entry["shape"])
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__") or {}
    return arrays | {name: np.array(json.loads(metadata[name]), float) for name in ("mean", "std") if name in metadata}


def _read_torch(path):
    try:
        import torch
    except ImportError:
        remedy = "install torch, or convert the file to .safetensors where it is"
        raise FieldError(_FIELD, os.fspath(path), "needs PyTorch to be read", remedy) from None
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own message advises to run code from the file
        raise ValueError("it is damaged, or holds Python objects other than tensors") from error
    for _ in _NESTS:  # a dict may hold itself
        nest = isinstance(entries, Mapping) and next((n for n in _NESTS if isinstance(entries.get(n), Mapping)), None)
        entries = entries[nest] if nest else entries
    if not isinstance(entries, Mapping):
        raise ValueError(f"it holds a {type(entries).__name__}, not a state dict")
    tensors = {str(name): value.detach() for name, value in entries.items() if isinstance(value, torch.Tensor)}
    # NumPy has no bfloat16.
    return {name: (t.float() if t.is_floating_point() else t).numpy() for name, t in tensors.items()}


def encode(suffix: str, arrays: dict[str, np.ndarray], mean=None, std=None) -> bytes:
    """The content of a file with these arrays, for the suffix `.safetensors` or `.npz`.

    The pixels' mean and std are put into the metadata of a .safetensors file, which `load_state_dict` does not read.
    """
    if suffix == ".safetensors":
        metadata = {"format": "pt"}
        metadata |= {name: json.dumps(list(values)) for name, values in (("mean", mean), ("std", std)) if values}
        return safetensors.numpy.save(arrays, metadata)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def normalisation(name: str, arrays: dict[str, np.ndarray]) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of the pixels in [0, 1] that are stored with the weights of an architecture, if there are any.

    Raises:
        FieldError: they are no real numbers, or too large for pixels, or a std is not above 0.
    """
    bare = _unwrapped(name, arrays)
    found = {field: bare[entry] for field, entry in torch_names.normalisation(bare).items()}
    for field, entry in found.items():
        array = arrays[entry]
        is_real = array.size and jnp.issubdtype(array.dtype, jnp.number) and not np.iscomplexobj(array)
        if not (is_real and (np.abs(array) < 1e6).all() and (field == "mean" or (array > 0).all())):
            problem = "holds no finite numbers" + " above 0" * (field == "std")
            remedy = "write the pixels' mean and std, or leave both out and give model.mean and model.std"
            raise FieldError(_FIELD, entry, problem, remedy)
    return {field: tuple(map(float, arrays[entry].ravel())) for field, entry in found.items()}


def to_variables(name: str, arrays: dict[str, np.ndarray], image_shape: tuple[int, int, int], **options) -> dict:
    """Variables of `models.create(name, num_classes=..., **options)`, with as many classes as the arrays have logits.

    Names may have the prefixes of common wrappers, such as `module.`. Batch counters, and the pixels' mean and std, are
    ignored.

    Args:
        name: of the architecture.
        arrays: float arrays by PyTorch's names, in PyTorch's layouts.
        image_shape: height, width and channels of the images.
        options: those options of the model that its variables depend on.

    Returns:
        {"params": ..., "batch_stats": ...} in float32; the latter only where the model has batch norm.

    Raises:
        FieldError: the weights are of an architecture that computes something else; or an array is missing, unknown or
            of another shape, or has values that are not finite floats.
    """
    bare = _unwrapped(name, arrays)
    if reason := torch_names.problem(bare):
        raise FieldError(_FIELD, name, reason, "its weights cannot be used here")
    for entry in torch_names.normalisation(bare).values():
        del bare[entry]

    shapes = _variable_shapes(name, image_shape, options)
    scheme = torch_names.recognise(name, shapes, bare)
    ours = {torch_names.of(scheme, path): path for path in shapes}
    remedy = f"use the state dict of such a {name}, and the same model.* fields and images of shape {image_shape}"
    if missing := [entry for entry in ours if entry not in bare]:
        raise FieldError(_FIELD, _some(missing), f"missing; {scheme.name}'s {name} has {len(ours)} arrays", remedy)
    if unknown := [bare[entry] for entry in bare if entry not in ours]:
        raise FieldError(_FIELD, _some(unknown), f"unknown; {scheme.name}'s {name} has {len(ours)} arrays", remedy)

    (head_bias,) = (entry for entry, path in ours.items() if path == "params/head/bias")
    num_classes = arrays[bare[head_bias]].size
    variables = {}
    for entry, path in ours.items():
        array, shape = np.asarray(arrays[bare[entry]]), shapes[path]
        if path.startswith("params/head/"):
            shape = (*shape[:-1], num_classes)
        axes = _AXES[len(shape)]
        expected = tuple(shape[axes.index(axis)] for axis in range(len(axes)))
        if array.shape != expected:
            raise FieldError(_FIELD, bare[entry], f"its shape is {array.shape}, expected {expected}", remedy)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise FieldError(_FIELD, bare[entry], f"holds {array.dtype}, not floats", remedy)
        array = _reorder(name, path, array, image_shape, to_ours=True)
        with np.errstate(over="ignore"):
            variables[path] = np.ascontiguousarray(array.transpose(axes), dtype=np.float32)
        if not np.isfinite(variables[path]).all():
            raise FieldError(_FIELD, bare[entry], "holds values that are no finite float32", "mend the weights")
    return unflatten_dict(variables, sep="/")


def from_variables(
    name: str, variables: dict, image_shape: tuple[int, int, int], scheme: str | None = None
) -> dict[str, np.ndarray]:
    """The inverse of `to_variables`: float32 arrays by PyTorch's names, in PyTorch's layouts.

    Args:
        scheme: name of one of `torch_names.schemes(name)`; None selects the first.

    Raises:
        FieldError: the architecture has no scheme of that name.
    """
    schemes = {known.name: known for known in torch_names.schemes(name)}
    if scheme is not None and scheme not in schemes:
        raise FieldError("names", scheme, f"{name} has no names of this kind", listed(schemes))
    chosen = schemes[scheme or next(iter(schemes))]
    arrays = {}
    for path, array in flatten_dict(variables, sep="/").items():
        array = np.asarray(array, np.float32)
        array = array.transpose(np.argsort(_AXES[array.ndim]))
        arrays[torch_names.of(chosen, path)] = np.ascontiguousarray(
            _reorder(name, path, array, image_shape, to_ours=False)
        )
    return arrays


def _unwrapped(name, arrays) -> dict[str, str]:
    if name not in models.NAMES:
        remedy = f"PyTorch weights can be read for {', '.join(models.NAMES)}"
        raise FieldError("model.name", name, "its PyTorch names are not known", remedy)
    try:
        return torch_names.unwrapped(name, arrays)
    except ValueError as error:
        raise FieldError(_FIELD, name, f"holds several models: {error}", "give a file of one") from error


def _variable_shapes(name, image_shape, options) -> dict[str, tuple[int, ...]]:
    """Shapes of the variables by path, for a single class."""
    model = models.create(name, num_classes=1, **models.options_of(name, options))
    images = jnp.zeros((1, *image_shape))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return {path: variable.shape for path, variable in flatten_dict(variables, sep="/").items()}


def _reorder(name, path, weight, image_shape, *, to_ours: bool):
    """Columns of a linear weight [out, in] in the order of a flattened NHWC map (ours) or NCHW map (PyTorch's)."""
    layer, channels, factor = _FLATTENED.get(name, (None, None, 1))
    if path != f"params/{layer}/kernel":
        return weight
    height, width, channels = image_shape[0] // factor, image_shape[1] // factor, channels or image_shape[2]
    if to_ours:
        return weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(weight.shape)
    return weight.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).reshape(weight.shape)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
