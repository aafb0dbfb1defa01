"""PyTorch's names for the variables of our models.

    torch_names.of(torch_names.schemes("resnet18")[1], "params/stage2_block1/conv1/kernel")  # layer2.0.conv1.weight

A scheme is how one published code base names the modules of a family of models. Layouts are in `torch_weights`.
"""

import dataclasses
import re
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a code base, `name`, calls the modules of a model: our name of a module without its number -> its name, where
    they differ; and a residual `block`, a format of the `stage`, from 1, and the `index` in the stage, from 0.
    """

    name: str
    modules: dict[str, str]
    block: str = ""


_RESNET, _LAYER = {"stem": "conv1", "stem_norm": "bn1", "norm": "bn"}, "layer{stage}.{index}"
_SHORTCUT = {"shortcut": "shortcut.0", "shortcut_norm": "shortcut.1"}
_DOWNSAMPLE = {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
_PREACT = {"stem": "conv1", "norm": "bn"}
# RobustBench's ResNet is that of github.com/kuangliu/pytorch-cifar.
_RESNETS = (
    Scheme("robustbench", _RESNET | _SHORTCUT | {"head": "linear"}, _LAYER),
    Scheme("torchvision", _RESNET | _DOWNSAMPLE | {"head": "fc"}, _LAYER),
)
_OWN = (Scheme("jaxrobust", {"norm": "bn", "head": "linear"}, "layer{stage}.{index}"),)
# Of the architectures whose weights others have published.
_PUBLISHED = {
    # advertorch.test_utils.LeNet5 (Ding et al. 2019)
    "lenet5": (Scheme("advertorch", {"hidden": "linear1", "head": "linear2"}),),
    "resnet18": _RESNETS,
    "resnet34": _RESNETS,
    "resnet50": _RESNETS,
    "preact_resnet18": (
        Scheme("robustbench", _PREACT | {"shortcut": "shortcut.0", "final_norm": "bn", "head": "linear"}, _LAYER),
    ),
    # RobustBench's is that of TRADES (Zhang et al. 2019).
    "wide_resnet": (
        Scheme(
            "robustbench",
            _PREACT | {"shortcut": "convShortcut", "final_norm": "bn1", "head": "fc"},
            "block{stage}.layer.{index}",
        ),
    ),
}

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

# Prefixes from wrappers of a model: DataParallel, a normalising wrapper, torch.compile, an index in nn.Sequential.
_WRAPPERS = re.compile(r"((module|model|net|_orig_mod|\d+)\.)+")
# Counters; and modules in published checkpoints that the forward pass does not use, or that are copies of others.
_UNUSED = re.compile(r"(.*\.)?num_batches_tracked|attacker\..*|model_preact_hl1\..*")
_UNUSED_BY_MODEL = {"wide_resnet": re.compile(r"sub_block1\..*")}
_MEANS = ("mean", "means", "mu", "new_mean")
_STDS = ("std", "sds", "sigma", "new_std")
# Architectures that look like one of ours, with a name that identifies them.
_OTHERS = (
    (
        re.compile(r"(layer\.\d+\.block|layer_\d+)\.\d+\.batchnorm_0\.weight"),
        "this is DeepMind's ResNet, which pads strided convolutions on one side only",
    ),
    (re.compile(r"layer\d+\.\d+\.bn0\.weight"), "this is a ResNet with batch norm before each block"),
    (re.compile(r".*\.weight_(v|orig)|parametrizations\..*"), "its weights are parametrised (weight norm, pruning)"),
)


def schemes(model: str) -> tuple[Scheme, ...]:
    """The schemes of an architecture; weights are exported with the first one."""
    return _PUBLISHED.get(model, _OWN)


def of(scheme: Scheme, path: str) -> str:
    """PyTorch's name for a variable of ours, for example `params/stage1_block2/norm1/scale`."""
    _, *modules, leaf = path.split("/")
    return ".".join([*(_module(scheme, module) for module in modules), _LEAVES.get(leaf, leaf)])


def _module(scheme: Scheme, module: str) -> str:
    if block := re.fullmatch(r"stage(\d+)_block(\d+)", module):
        return scheme.block.format(stage=int(block[1]), index=int(block[2]) - 1)
    kind, number = re.fullmatch(r"(.*?)(\d*)", module).groups()
    return scheme.modules.get(kind, kind) + number


def recognise(model: str, paths: Iterable[str], names: Iterable[str]) -> Scheme:
    """The scheme of this model's that has most of the names."""
    paths, names = list(paths), set(names)
    return max(schemes(model), key=lambda scheme: len(names & {of(scheme, path) for path in paths}))


def unwrapped(model: str, names: Iterable[str]) -> dict[str, str]:
    """Names without the prefixes of wrappers: bare name -> name; without names that the forward pass does not use.
    Raises ValueError if two are the same then.
    """
    bare = {}
    for name in names:
        short = _WRAPPERS.sub("", name, count=1) if _WRAPPERS.match(name) else name
        unused = _UNUSED_BY_MODEL.get(model)
        if _UNUSED.fullmatch(short) or (unused and unused.fullmatch(short)):
            continue
        if short in bare:
            raise ValueError(f"{bare[short]} and {name} are both {short}")
        bare[short] = name
    return bare


def normalisation(names: Iterable[str]) -> dict[str, str]:
    """Those of the bare names that are the pixels' `mean` and `std`, if there are any."""
    found = {}
    for name in names:
        last = name.rpartition(".")[2]
        for field, known in (("mean", _MEANS), ("std", _STDS)):
            if last in known:
                found.setdefault(field, name)
    return found


def problem(names: Iterable[str]) -> str | None:
    """Why these are not the weights of any architecture here, if the names show that; else None."""
    names = list(names)
    return next((reason for name, reason in _OTHERS if any(name.fullmatch(other) for other in names)), None)
