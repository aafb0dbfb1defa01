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

from jaxrobust import settings
from jaxrobust.errors import FieldError, one_of
from jaxrobust.models.cnn import CNN
from jaxrobust.models.lenet5 import LeNet5
from jaxrobust.models.linear import MLP, LinearClassifier
from jaxrobust.models.preact_resnet import SHORTCUTS, preact_resnet18
from jaxrobust.models.resnet import STEMS, BasicBlock, BottleneckBlock, ResNet
from jaxrobust.models.wide_resnet import wide_resnet

HEADS = ("linear", "cosine")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Architecture(NamedTuple):
    """A kind of model. To add one, write it as a `Classifier` (layers.py) and give it an entry in `ARCHITECTURES`."""

    make: Callable[..., nn.Module]  # its options, and those of `Classifier` -> the model
    # its own options with their defaults, by their names in `OPTIONS`. A width of None or 0 stands for the
    # default.
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
# The options of architectures, which are fields of `config.model` too. Those that share one share its default there.
# fmt: off
OPTIONS = settings.table(
    "model",
    ("depth", 28, "wide_resnet: 6n + 4 layers", settings.between(1, 1000)),
    ("stem", "small", "resnet18, 34, 50. small: 3x3; imagenet: 7x7 and pooling, a quarter of the resolution",
     settings.one_of(*STEMS)),
    ("width", 0, "wide_resnet: widening factor; cnn: channels of the first stage; 0: the model's own default",
     settings.up_to(4096)),
    ("hidden", (256, 256), "mlp: units of each hidden layer",
     settings.each(lambda n: isinstance(n, int) and 1 <= n <= 2**16,
                   "at least one number of units, each 1 to 65,536")),
    ("final_batch_norm", True, "preact_resnet18: batch norm before the pooling, as Rice et al. 2020"),
    ("shortcut", "activation",
     "preact_resnet18: what 1x1 shortcuts read: activation (Rice et al. 2020) or input (Wong et al. 2020)",
     settings.one_of(*SHORTCUTS)),
)
# fmt: on


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
        OPTIONS[option].check(value)
    ARCHITECTURES[name].make(**chosen, num_classes=1)  # which raises what this architecture alone does not allow


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
