"""Names and shapes as published: torchvision 0.2x, RobustBench 1.1, advertorch 0.2."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxrobust import models
from jaxrobust.models import torch_names, torch_weights


def published(name, scheme, image_shape, num_classes, **options):
    """Shapes by PyTorch's names of the architecture in its published size."""
    model = models.create(name, num_classes=num_classes, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, *image_shape), np.float32)))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    arrays = torch_weights.from_variables(name, zeros, image_shape, scheme)
    return {entry: array.shape for entry, array in arrays.items()}


RESNET18_CIFAR = {
    "conv1.weight": (64, 3, 3, 3),
    "bn1.running_var": (64,),
    "layer1.0.conv1.weight": (64, 64, 3, 3),
    "layer1.1.bn2.bias": (64,),
    "layer2.0.conv1.weight": (128, 64, 3, 3),
    "layer2.0.shortcut.0.weight": (128, 64, 1, 1),
    "layer2.0.shortcut.1.running_mean": (128,),
    "layer4.1.conv2.weight": (512, 512, 3, 3),
    "linear.weight": (10, 512),
    "linear.bias": (10,),
}
RESNET50_IMAGENET = {
    "conv1.weight": (64, 3, 7, 7),
    "layer1.0.conv1.weight": (64, 64, 1, 1),
    "layer1.0.conv3.weight": (256, 64, 1, 1),
    "layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "layer1.0.downsample.1.weight": (256,),
    "layer3.5.bn3.running_var": (1024,),
    "layer4.0.conv2.weight": (512, 512, 3, 3),
    "fc.weight": (1000, 2048),
    "fc.bias": (1000,),
}
PREACT = {
    "conv1.weight": (64, 3, 3, 3),
    "layer1.0.bn1.weight": (64,),
    "layer2.0.bn1.running_mean": (64,),
    "layer2.0.shortcut.0.weight": (128, 64, 1, 1),
    "layer4.1.conv2.weight": (512, 512, 3, 3),
    "linear.weight": (10, 512),
}
WIDE = {
    "conv1.weight": (16, 3, 3, 3),
    "block1.layer.0.bn1.weight": (16,),
    "block1.layer.0.conv1.weight": (160, 16, 3, 3),
    "block1.layer.0.convShortcut.weight": (160, 16, 1, 1),
    "block2.layer.0.bn2.running_var": (320,),
    "block3.layer.3.conv2.weight": (640, 640, 3, 3),
    "bn1.weight": (640,),
    "fc.weight": (100, 640),
}
LENET5 = {
    "conv1.weight": (32, 1, 3, 3),
    "conv2.bias": (64,),
    "linear1.weight": (200, 3136),
    "linear2.weight": (10, 200),
}


@pytest.mark.parametrize(
    "name, scheme, image_shape, num_classes, options, expected, entries",
    [
        ("resnet18", "robustbench", (32, 32, 3), 10, {}, RESNET18_CIFAR, 102),
        ("resnet34", "torchvision", (224, 224, 3), 1000, {"stem": "imagenet"}, {"layer3.5.conv2.weight": None}, 182),
        ("resnet50", "torchvision", (224, 224, 3), 1000, {"stem": "imagenet"}, RESNET50_IMAGENET, 267),
        ("preact_resnet18", None, (32, 32, 3), 10, {}, PREACT | {"bn.running_var": (512,)}, 90),
        ("preact_resnet18", None, (32, 32, 3), 10, {"final_batch_norm": False}, PREACT, 86),
        ("wide_resnet", None, (32, 32, 3), 100, {"depth": 28, "width": 10}, WIDE, 130),
        ("lenet5", None, (28, 28, 1), 10, {}, LENET5, 8),
        ("cnn", None, (32, 32, 3), 10, {}, {"conv5.weight": (128, 128, 3, 3), "bn5.bias": (128,)}, 27),
        ("mlp", None, (28, 28, 1), 10, {"hidden": (9, 7)}, {"hidden2.weight": (7, 9), "linear.bias": (10,)}, 6),
        ("linear", None, (28, 28, 1), 10, {}, {"linear.weight": (10, 784)}, 2),
    ],
)
def test_names_and_shapes_are_the_published_ones(name, scheme, image_shape, num_classes, options, expected, entries):
    shapes = published(name, scheme, image_shape, num_classes, **options)
    assert len(shapes) == entries
    for entry, shape in expected.items():
        assert entry in shapes and shape in (None, shapes[entry]), entry


def test_every_architecture_has_names_and_every_variable_its_own():
    for name in models.NAMES:
        model = models.create(name, num_classes=2, **models.options_of(name, {"width": 2, "depth": 16}))
        shapes = jax.eval_shape(lambda m=model: m.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)))
        paths = list(flatten_dict(shapes, sep="/"))
        for scheme in torch_names.schemes(name):
            names = {torch_names.of(scheme, path) for path in paths}
            assert len(names) == len(paths)
            assert torch_names.recognise(name, paths, names) == scheme


def test_wrappers_and_what_no_forward_pass_reads_are_taken_off():
    names = [
        "module.model.conv1.weight",
        "module.normalizer.new_mean",
        "module.attacker.model.conv1.weight",
        "module.model.bn1.num_batches_tracked",
        "1.block1.layer.0.bn1.weight",
        "sub_block1.layer.0.bn1.weight",
    ]
    bare = torch_names.unwrapped("wide_resnet", names)
    assert bare == {
        "conv1.weight": names[0],
        "normalizer.new_mean": names[1],
        "block1.layer.0.bn1.weight": names[4],
    }
    assert torch_names.normalisation(bare) == {"mean": "normalizer.new_mean"}
    assert "sub_block1.layer.0.bn1.weight" in torch_names.unwrapped("resnet18", names)
    with pytest.raises(ValueError, match=r"conv1\.weight and module\.conv1\.weight are both conv1\.weight"):
        torch_names.unwrapped("resnet18", ["conv1.weight", "module.conv1.weight"])
