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
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.errors import FieldError, one_of
from jaxrobust.models.cnn import CNN
from jaxrobust.models.lenet5 import LeNet5
from jaxrobust.models.linear import MLP, LinearClassifier
from jaxrobust.models.preact_resnet import SHORTCUTS, preact_resnet18
from jaxrobust.models.resnet import STEMS, BasicBlock, BottleneckBlock, ResNet
from jaxrobust.models.wide_resnet import blocks_per_stage, wide_resnet

HEADS = ("linear", "cosine")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Architecture(NamedTuple):
    """A kind of model. To add one, write it as a `Classifier` (layers.py) and give it an entry in `ARCHITECTURES`."""

    make: Callable[..., nn.Module]  # its options, and those of `Classifier` -> the model
    # its own options with their defaults, by the names of the fields of `config.model`. A width of None or 0 stands
    # for the default.
    options: Mapping[str, object] = MappingProxyType({})
    title: str = ""  # format of its name for display, of the options; empty: its name


def _resnet(block, *stage_sizes: int) -> Architecture:
    return Architecture(partial(ResNet, stage_sizes=stage_sizes, block=block), {"width": 64, "stem": "small"})


ARCHITECTURES = {
    "linear": Architecture(LinearClassifier),
    "mlp": Architecture(MLP, {"hidden": (256, 256)}),
    "cnn": Architecture(CNN, {"width": 32}),
    "lenet5": Architecture(LeNet5),
    "resnet18": _resnet(BasicBlock, 2, 2, 2, 2),
    "resnet34": _resnet(BasicBlock, 3, 4, 6, 3),
    "resnet50": _resnet(BottleneckBlock, 3, 4, 6, 3),
    "preact_resnet18": Architecture(preact_resnet18, {"width": 64, "final_batch_norm": True, "shortcut": "activation"}),
    "wide_resnet": Architecture(wide_resnet, {"depth": 28, "width": 10}, title="wide_resnet {depth}-{width}"),
}
NAMES = tuple(ARCHITECTURES)
OPTIONS = tuple(dict.fromkeys(option for kind in ARCHITECTURES.values() for option in kind.options))
# Allowed values of options, and what raises FieldError for others.
_CHECKS = {
    "stem": lambda stem: one_of("model.stem", stem, STEMS),
    "shortcut": lambda shortcut: one_of("model.shortcut", shortcut, SHORTCUTS),
    "depth": blocks_per_stage,
}


def options_of(name: str, given: Mapping[str, object]) -> dict:
    """The options of the architecture among those given, such as all fields of `config.model`; defaults filled in.
    Raises FieldError if the name is unknown.
    """
    one_of("model.name", name, NAMES)
    chosen = {}
    for option, default in ARCHITECTURES[name].options.items():
        value = given.get(option, default)
        chosen[option] = tuple(value) if isinstance(default, tuple) else value
        if option == "width" and not value:
            chosen[option] = default
    return chosen


def check(name: str, *, dtype: str = "float32", head: str = "linear", head_scale: float = 10.0, **options) -> None:
    """Raises FieldError unless `create` can build this model."""
    chosen = options_of(name, options)
    for option in sorted(set(options) - set(chosen)):
        having = ", ".join(other for other, kind in ARCHITECTURES.items() if option in kind.options)
        own = ", ".join(chosen) or "none"
        remedy = f"leave it out (its own: {own})" + (f", or take {having}" if having else "")
        raise FieldError(f"model.{option}", options[option], f"{name} has no such option", remedy)
    one_of("model.dtype", dtype, tuple(DTYPES))
    one_of("model.head", head, HEADS)
    if not 0 < head_scale < math.inf:
        raise FieldError("model.head_scale", head_scale, "is not a scale", "write a positive number, for example 10")
    for option, value in chosen.items():
        if option in _CHECKS:
            _CHECKS[option](value)


def title(name: str, options: Mapping[str, object]) -> str:
    """The name for display, with the options that distinguish models of that name: `wide_resnet 34-10`."""
    return (ARCHITECTURES[name].title or name).format(**options_of(name, options))


def create(
    name: str,
    *,
    num_classes: int,
    dtype: str = "float32",
    batch_norm_axis: str | None = None,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    head: str = "linear",
    head_scale: float = 10.0,
    canonical_gradients: bool = False,
    **options,
) -> nn.Module:
    """The model called `name`.

    Args:
        name: one of `NAMES`.
        num_classes: number of logits.
        dtype: of convolutions and matrix products, `float32` or `bfloat16`; parameters and logits stay float32.
        batch_norm_axis: mapped axis over which batch statistics are synchronised; None keeps them per device.
        mean: of the pixels, in [0, 1]; one value, or one for each channel.
        std: of the pixels; likewise.
        head: `linear`, or `cosine`: logits are `head_scale` times cosines; the variables are the same.
        head_scale: of the cosine head; 10 in RoBal (Wu et al. 2021), 30 in LDAM (Cao et al. 2019).
        canonical_gradients: compute gradients of convolutions in a form that XLA:CPU runs fast in loops; set it on CPU.
        options: of the architecture, see `ARCHITECTURES`.

    Raises:
        FieldError: the name or the value of an option is unknown, or the architecture has no such option.
    """
    check(name, dtype=dtype, head=head, head_scale=head_scale, **options)
    return ARCHITECTURES[name].make(
        **options_of(name, options),
        num_classes=num_classes,
        dtype=DTYPES[dtype],
        mean=tuple(mean),
        std=tuple(std),
        batch_norm_axis=batch_norm_axis,
        canonical_gradients=canonical_gradients,
        head_kind=head,
        head_scale=head_scale,
    )
