"""Image classifiers by name.

    model = models.create("resnet18", num_classes=10, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    variables = model.init(key, images, train=False)
    logits = model.apply(variables, images, train=False)
    logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    features = model.apply(variables, images, method="features")

Models are pure Flax Linen modules from images [B, H, W, C], float32 in [0, 1], to float32 logits [B, num_classes]. All
normalise the pixels themselves and accept images of any size; the variables of `linear`, `mlp` and `lenet5` depend on
that size.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.errors import FieldError
from jaxrobust.models.cnn import CNN
from jaxrobust.models.lenet5 import LeNet5
from jaxrobust.models.linear import MLP, LinearClassifier
from jaxrobust.models.preact_resnet import SHORTCUTS, PreActResNet
from jaxrobust.models.resnet import STEMS, BasicBlock, BottleneckBlock, ResNet
from jaxrobust.models.wide_resnet import blocks_per_stage, wide_resnet

NAMES = ("linear", "mlp", "cnn", "lenet5", "resnet18", "resnet34", "resnet50", "preact_resnet18", "wide_resnet")
# Number of blocks in each stage, and their type.
_RESNETS = {
    "resnet18": ((2, 2, 2, 2), BasicBlock),
    "resnet34": ((3, 4, 6, 3), BasicBlock),
    "resnet50": ((3, 4, 6, 3), BottleneckBlock),
}
HEADS = ("linear", "cosine")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def check(
    name: str,
    *,
    dtype: str = "float32",
    depth: int = 28,
    stem: str = "small",
    shortcut: str = "activation",
    head: str = "linear",
    head_scale: float = 10.0,
) -> None:
    """Raises FieldError unless `create` can build this model; does not build it."""
    if name not in NAMES:
        raise FieldError("model.name", name, "unknown model", f"write one of {', '.join(NAMES)}")
    if dtype not in DTYPES:
        raise FieldError("model.dtype", dtype, "unknown computation type", f"write one of {', '.join(DTYPES)}")
    if stem not in STEMS:
        raise FieldError("model.stem", stem, "unknown stem", f"write one of {', '.join(STEMS)}")
    if shortcut not in SHORTCUTS:
        raise FieldError("model.shortcut", shortcut, "unknown shortcut", f"write one of {', '.join(SHORTCUTS)}")
    if head not in HEADS:
        raise FieldError("model.head", head, "unknown head", f"write one of {', '.join(HEADS)}")
    if not 0 < head_scale < math.inf:
        raise FieldError("model.head_scale", head_scale, "is not a scale", "write a positive number, for example 10")
    if name == "wide_resnet":
        blocks_per_stage(depth)


def title(name: str, depth: int, width: int | None = None) -> str:
    """The name for display, with the options that distinguish models of that name: `wide_resnet 34-10`."""
    return f"{name} {depth}-{width or 10}" if name == "wide_resnet" else name


def create(
    name: str,
    *,
    num_classes: int,
    dtype: str = "float32",
    batch_norm_axis: str | None = None,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    depth: int = 28,
    width: int | None = None,
    hidden: tuple[int, ...] = (256, 256),
    final_batch_norm: bool = True,
    shortcut: str = "activation",
    stem: str = "small",
    head: str = "linear",
    head_scale: float = 10.0,
    canonical_gradients: bool = False,
) -> nn.Module:
    """The model called `name`; options that this model does not have are ignored.

    Args:
        name: one of `NAMES`.
        num_classes: number of logits.
        dtype: of convolutions and matrix products, `float32` or `bfloat16`; parameters and logits stay float32.
        batch_norm_axis: mapped axis over which batch statistics are synchronised; None keeps them per device.
        mean: of the pixels, in [0, 1]; one value, or one for each channel.
        std: of the pixels; likewise.
        depth: of `wide_resnet`, 6n + 4.
        width: channels of the first stage (default for `cnn` 32, for ResNets 64), or the widening factor of
            `wide_resnet` (default 10); None or 0 selects the default.
        hidden: width of each hidden layer of `mlp`.
        final_batch_norm: of `preact_resnet18`, whether it normalises before pooling.
        shortcut: of `preact_resnet18`, what its 1x1 shortcuts read: the block's `activation` or its `input`.
        stem: of `resnet18`, `resnet34` and `resnet50`: `small` for images of about 32 pixels, `imagenet` for about 224.
        head: `linear`, or `cosine`: logits are `head_scale` times cosines; the variables are the same.
        head_scale: of the cosine head; 10 in RoBal (Wu et al. 2021), 30 in LDAM (Cao et al. 2019).
        canonical_gradients: compute gradients of convolutions in a form that XLA:CPU runs fast in loops; set it on CPU.

    Raises:
        FieldError: the name, the dtype, the depth, the stem, the shortcut or the head is unknown.
    """
    check(name, dtype=dtype, depth=depth, stem=stem, shortcut=shortcut, head=head, head_scale=head_scale)
    common = dict(
        num_classes=num_classes,
        dtype=DTYPES[dtype],
        mean=tuple(mean),
        std=tuple(std),
        batch_norm_axis=batch_norm_axis,
        canonical_gradients=canonical_gradients,
        head_kind=head,
        head_scale=head_scale,
    )
    match name:
        case "linear":
            return LinearClassifier(**common)
        case "mlp":
            return MLP(hidden=tuple(hidden), **common)
        case "cnn":
            return CNN(width=width or 32, **common)
        case "lenet5":
            return LeNet5(**common)
        case "resnet18" | "resnet34" | "resnet50":
            stage_sizes, block = _RESNETS[name]
            return ResNet(stage_sizes=stage_sizes, block=block, width=width or 64, stem=stem, **common)
        case "preact_resnet18":
            stem = width or 64
            widths = (stem, 2 * stem, 4 * stem, 8 * stem)
            options = {"final_batch_norm": final_batch_norm, "shortcut": shortcut}
            return PreActResNet(stage_widths=widths, stem_width=stem, **options, **common)
        case "wide_resnet":
            return wide_resnet(depth, width or 10, **common)
        case _:
            raise AssertionError(f"{name} is in NAMES but has no model")
