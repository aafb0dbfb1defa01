"""PyTorch weights against forward passes in PyTorch's layouts, written in NumPy after the published modules."""

import io
import json
import pathlib
import pickle
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hostile_files import archives

from jaxrobust import models
from jaxrobust.errors import FieldError
from jaxrobust.models import torch_names, torch_weights

SHAPE = (9, 13, 2)  # sides that differ and that pooling rounds down, to tell every axis apart
CLASSES = 5
SMALL = {"width": 2, "depth": 10, "hidden": (6, 4)}


def random_weights(name, image_shape=SHAPE, scheme=None, **options):
    """A state dict of random numbers: unlike initial ones, those of batch normalisation do something too."""
    model = models.create(name, num_classes=CLASSES, **models.options_of(name, options))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_shape))))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    rng = np.random.default_rng(0)
    weights = {}
    for entry, array in torch_weights.from_variables(name, zeros, image_shape, scheme).items():
        positive = entry.endswith("running_var") or (entry.endswith("weight") and array.ndim == 1)
        spread = np.prod(array.shape[1:]) ** -0.5 if array.ndim > 1 else 0.2  # small, or few ReLUs would be alive
        values = rng.uniform(0.5, 2, array.shape) if positive else rng.normal(size=array.shape) * spread
        weights[entry] = values.astype(np.float32)
    return weights


# The forward passes: images x [N, C, H, W], weights w by PyTorch's names.


def conv(w, name, x, stride=1, padding=1):
    kernel = w[f"{name}.weight"]
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    y = np.einsum("nchwij,ocij->nohw", windows, kernel)
    return y + w[f"{name}.bias"][:, None, None] if f"{name}.bias" in w else y


def bn(w, name, x):
    mean, var, weight, bias = (
        w[f"{name}.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def relu(x):
    return np.maximum(x, 0)


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def pool(x, size, stride, padding=0):
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)], constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride].max((4, 5))


def blocks(w, form):
    """Name and stride of every residual block."""
    for stage in range(1, 5):
        index = 0
        while f"{form.format(stage, index)}.conv1.weight" in w:
            yield form.format(stage, index), 2 if stage > 1 and index == 0 else 1
            index += 1


def resnet(w, x):
    downsample, head = ("downsample", "fc") if "fc.weight" in w else ("shortcut", "linear")
    imagenet = w["conv1.weight"].shape[2] == 7
    x = relu(bn(w, "bn1", conv(w, "conv1", x, 2, 3) if imagenet else conv(w, "conv1", x)))
    x = pool(x, 3, 2, 1) if imagenet else x
    for block, stride in blocks(w, "layer{}.{}"):
        if f"{block}.conv3.weight" in w:
            y = relu(bn(w, f"{block}.bn1", conv(w, f"{block}.conv1", x, 1, 0)))
            y = relu(bn(w, f"{block}.bn2", conv(w, f"{block}.conv2", y, stride)))
            y = bn(w, f"{block}.bn3", conv(w, f"{block}.conv3", y, 1, 0))
        else:
            y = relu(bn(w, f"{block}.bn1", conv(w, f"{block}.conv1", x, stride)))
            y = bn(w, f"{block}.bn2", conv(w, f"{block}.conv2", y))
        if f"{block}.{downsample}.0.weight" in w:
            x = bn(w, f"{block}.{downsample}.1", conv(w, f"{block}.{downsample}.0", x, stride, 0))
        x = relu(x + y)
    return linear(w, head, x.mean((2, 3)))


def preact_resnet(w, x, shortcut="activation"):
    x = conv(w, "conv1", x)
    for block, stride in blocks(w, "layer{}.{}"):
        out = relu(bn(w, f"{block}.bn1", x))
        if f"{block}.shortcut.0.weight" in w:
            x = conv(w, f"{block}.shortcut.0", out if shortcut == "activation" else x, stride, 0)
        out = conv(w, f"{block}.conv1", out, stride)
        x = x + conv(w, f"{block}.conv2", relu(bn(w, f"{block}.bn2", out)))
    x = relu(bn(w, "bn", x)) if "bn.weight" in w else x
    return linear(w, "linear", x.mean((2, 3)))


def wide_resnet(w, x):
    x = conv(w, "conv1", x)
    for block, stride in blocks(w, "block{}.layer.{}"):
        out = relu(bn(w, f"{block}.bn1", x))
        if f"{block}.convShortcut.weight" in w:
            x = conv(w, f"{block}.convShortcut", out, stride, 0)
        out = conv(w, f"{block}.conv2", relu(bn(w, f"{block}.bn2", conv(w, f"{block}.conv1", out, stride))))
        x = x + out
    return linear(w, "fc", relu(bn(w, "bn1", x)).mean((2, 3)))


def cnn(w, x):
    for index, stride in enumerate((1, 2, 1, 2, 1), start=1):
        x = relu(bn(w, f"bn{index}", conv(w, f"conv{index}", x, stride)))
    return linear(w, "linear", x.mean((2, 3)))


def lenet5(w, x):
    for index in (1, 2):
        x = pool(relu(conv(w, f"conv{index}", x)), 2, 2)
    return linear(w, "linear2", relu(linear(w, "linear1", x.reshape(len(x), -1))))


def mlp(w, x):
    x = x.reshape(len(x), -1)
    return linear(w, "linear", relu(linear(w, "hidden2", relu(linear(w, "hidden1", x)))))


CASES = {
    "linear": ("linear", {}, lambda w, x: linear(w, "linear", x.reshape(len(x), -1))),
    "mlp": ("mlp", {"hidden": (6, 4)}, mlp),
    "cnn": ("cnn", {"width": 2}, cnn),
    "lenet5": ("lenet5", {}, lenet5),
    "robustbench resnet18": ("resnet18", {"width": 4}, resnet),
    "torchvision resnet50": ("resnet50", {"width": 2, "stem": "imagenet"}, resnet),
    "rice": ("preact_resnet18", {"width": 4}, preact_resnet),
    "wong": (
        "preact_resnet18",
        {"width": 4, "final_batch_norm": False, "shortcut": "input"},
        lambda w, x: preact_resnet(w, x, "input"),
    ),
    "wide_resnet": ("wide_resnet", {"width": 2, "depth": 16}, wide_resnet),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_the_published_forward_pass(case):
    name, options, forward = CASES[case]
    scheme = "torchvision" if "torchvision" in case else None
    weights = random_weights(name, scheme=scheme, **options)
    variables = torch_weights.to_variables(name, weights, SHAPE, **options)
    images = np.random.default_rng(1).uniform(size=(3, *SHAPE)).astype(np.float32)
    model = models.create(name, num_classes=CLASSES, **models.options_of(name, options))
    logits = jax.jit(lambda variables, images: model.apply(variables, images))(variables, images)
    expected = forward(weights, images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - expected[:1]).max() > 0.01, "logits that hang on the images"
    if name == "preact_resnet18":
        other = preact_resnet(weights, images.transpose(0, 3, 1, 2), "input" if case == "rice" else "activation")
        assert np.abs(other - expected).max() > 0.01, "the other block is another function of the same weights"


@pytest.mark.parametrize("name", models.NAMES)
def test_there_and_back_is_the_same_bits(name):
    for scheme in torch_names.schemes(name):
        weights = random_weights(name, scheme=scheme.name, **SMALL)
        variables = torch_weights.to_variables(name, weights, SHAPE, **SMALL)
        back = torch_weights.from_variables(name, variables, SHAPE, scheme.name)
        assert back.keys() == weights.keys()
        for entry in weights:
            np.testing.assert_array_equal(back[entry], weights[entry])


def test_wrapped_weights_in_half_precision_with_their_normalisation():
    weights = random_weights("cnn", width=2)
    wrapped = {f"module.model.{entry}": array.astype(np.float16) for entry, array in weights.items()}
    wrapped |= {
        "module.normalize.mean": np.full((1, 2, 1, 1), 0.5),
        "module.normalize.std": np.full((1, 2, 1, 1), 0.25),
    }
    wrapped["module.model.bn1.num_batches_tracked"] = np.array(7)
    variables = torch_weights.to_variables("cnn", wrapped, SHAPE, width=2)
    for leaf, other in zip(
        jax.tree.leaves(variables),
        jax.tree.leaves(torch_weights.to_variables("cnn", weights, SHAPE, width=2)),
        strict=True,
    ):
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-4)
    assert torch_weights.normalisation("cnn", wrapped) == {"mean": (0.5, 0.5), "std": (0.25, 0.25)}
    for wrong in (np.array(["a"]), np.array([np.inf]), np.zeros(0)):
        with pytest.raises(FieldError, match=r"'module.normalize.mean': holds no finite numbers"):
            torch_weights.normalisation("cnn", wrapped | {"module.normalize.mean": wrong})
    for entry, wrong in (("std", [0.0, 0.2]), ("std", [-1.0, 0.2]), ("mean", [1j, 0]), ("mean", [1e30, 0])):
        with pytest.raises(FieldError, match=f"'module.normalize.{entry}': holds no finite numbers"):
            torch_weights.normalisation("cnn", wrapped | {f"module.normalize.{entry}": np.array(wrong)})


def test_wrong_weights_are_named():
    weights = random_weights("lenet5")
    missing = {name: array for name, array in weights.items() if name != "conv2.bias"}
    unknown = {**weights, **{f"conv{n}.bias": np.zeros(3) for n in range(3, 9)}}
    misshapen = {**weights, "conv1.weight": weights["conv1.weight"].transpose(2, 3, 1, 0)}
    integers = {**weights, "conv1.bias": np.arange(32)}
    for wrong, message in [
        (missing, "'conv2.bias': missing"),
        (unknown, "'conv3.bias, conv4.bias, conv5.bias and 3 more': unknown"),
        (misshapen, "'conv1.weight': its shape is"),
        (integers, "'conv1.bias': holds int64"),
        ({**weights, "conv1.bias": np.full(32, 1e300)}, "'conv1.bias': holds values that are no finite float32"),
    ]:
        with pytest.raises(FieldError, match=f"^path = {message}"):
            torch_weights.to_variables("lenet5", wrong, SHAPE)
    with pytest.raises(FieldError, match=r"'linear1.weight': its shape is \(200, 384\), expected \(200, 256\)"):
        torch_weights.to_variables("lenet5", weights, (8, 8, 2))
    with pytest.raises(FieldError, match=r"missing; .*'s cnn has 27 arrays"):
        torch_weights.to_variables("cnn", weights, SHAPE)
    with pytest.raises(FieldError, match=r"^names = 'torchvision'"):
        torch_weights.from_variables(
            "lenet5", torch_weights.to_variables("lenet5", weights, SHAPE), SHAPE, "torchvision"
        )


@pytest.mark.parametrize(
    "entry, reason",
    [
        ("layer.1.block.0.batchnorm_0.weight", "pads strided convolutions on one side"),
        ("layer_1.0.batchnorm_0.weight", "pads strided convolutions on one side"),
        ("layer1.0.bn0.weight", "batch norm before each block"),
        ("fc.weight_v", "parametrised"),
    ],
)
def test_other_architectures_are_refused(entry, reason):
    with pytest.raises(FieldError, match=reason):
        torch_weights.to_variables("wide_resnet", {entry: np.zeros(3)}, SHAPE)


class Payload:
    """Pickled, it writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.write_text, (self.path, "executed")


def test_files_are_read_as_written(tmp_path):
    weights = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(2.0)}
    for suffix in (".npz", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(torch_weights.encode(suffix, weights, mean=(0.25, 0.5), std=(2.0,)))
        arrays = torch_weights.load(path)
        np.testing.assert_array_equal(arrays["a.weight"], weights["a.weight"])
        assert arrays["b"] == 2
    assert arrays["mean"].tolist() == [0.25, 0.5] and arrays["std"].tolist() == [2]
    assert set(safetensors.numpy.load_file(path)) == set(weights), "the tensors are the state dict and nothing else"


def test_bfloat16_is_read(tmp_path):
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    content = struct.pack("<Q", len(header)) + header + np.array([1.5, -2], jnp.bfloat16).tobytes()
    (tmp_path / "half.safetensors").write_bytes(content)
    assert torch_weights.load(tmp_path / "half.safetensors")["a"].astype(np.float32).tolist() == [1.5, -2]


def test_files_of_anything_else_are_refused_and_not_executed(tmp_path):
    executed = tmp_path / "executed"
    pickled = pickle.dumps({"conv1.weight": Payload(executed)})
    for name in ("pickled.npz", "pickled.safetensors"):
        (tmp_path / name).write_bytes(pickled)
    np.savez(tmp_path / "objects.npz", weights=np.array([Payload(executed)], dtype=object))
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    (tmp_path / "array.npz").write_bytes(buffer.getvalue())
    (tmp_path / "empty.npz").write_bytes(b"")
    whole = torch_weights.encode(".safetensors", {"a": np.zeros(9)})
    (tmp_path / "torn.safetensors").write_bytes(whole[:-8])
    (tmp_path / "weights.bin").write_bytes(whole)
    names = [path.name for path in tmp_path.iterdir()]
    for name in ("absent.npz", *names):
        with pytest.raises(FieldError, match=r"^path = "):
            torch_weights.load(tmp_path / name)
    assert not executed.exists()


def test_headers_are_not_believed(tmp_path):
    """Impossible shapes, lengths beyond the file, encryption, deep nesting: one line, at once."""
    kinds = ("elements", "elements, compressed", "empty type", "negative", "encrypted", "compression", "nested", "cut")
    entry = {"dtype": "F32", "shape": [10**14], "data_offsets": [0, 8]}
    headers = [json.dumps({"a": entry}), json.dumps({"a": entry | {"data_offsets": [0, 10**15]}}), "[" * 10**5, "[1]"]
    headers += ['{"__metadata__": {"mean": "' + "[" * 10**5 + '"}}']
    contents = [struct.pack("<Q", len(header)) + header.encode() + bytes(8) for header in headers]
    contents += [struct.pack("<Q", length) + b"{}" for length in (10**6, 2**64 - 1)]
    for suffix, content in [(".npz", archives()[k]) for k in kinds] + [(".safetensors", c) for c in contents]:
        (tmp_path / f"weights{suffix}").write_bytes(content)
        with pytest.raises(FieldError, match=f"is not a {suffix} file of plain arrays") as error:
            torch_weights.load(tmp_path / f"weights{suffix}")
        assert "\n" not in str(error.value)


def test_pytorchs_own_files(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3)}
    torch.save({"epoch": 3, "optimizer": {}, "state_dict": weights}, tmp_path / "nested.pt")
    torch.save({name: value.bfloat16() for name, value in weights.items()}, tmp_path / "plain.pth")
    for name in ("nested.pt", "plain.pth"):
        arrays = torch_weights.load(tmp_path / name)
        assert set(arrays) == set(weights)
        np.testing.assert_array_equal(arrays["a.weight"], np.arange(6.0).reshape(2, 3))
    torch.save({"a": Payload(tmp_path / "executed")}, tmp_path / "malicious.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("malicious.pt", "list.pt"):
        with pytest.raises(FieldError, match=f"{name}': is not a .pt file of plain arrays") as raised:
            torch_weights.load(tmp_path / name)
        assert "weights_only" not in str(raised.value)  # PyTorch's message says how to execute the file
    assert not (tmp_path / "executed").exists()
    itself = {7: torch.zeros(2)}
    itself["model"] = itself
    torch.save(itself, tmp_path / "itself.pt")
    assert set(torch_weights.load(tmp_path / "itself.pt")) == {"7"}


def test_pytorchs_files_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "weights.pt").write_bytes(b"anything")
    with pytest.raises(FieldError, match="needs PyTorch to be read; install torch, or convert"):
        torch_weights.load(tmp_path / "weights.pt")
