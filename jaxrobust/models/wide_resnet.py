"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv:1605.07146), without dropout."""

from jaxrobust.errors import FieldError
from jaxrobust.models.preact_resnet import PreActResNet


def blocks_per_stage(depth: int) -> int:
    """Blocks in each of the three stages. Depth counts the stem, two convolutions a block and three shortcuts: 6n + 4;
    FieldError for any other.
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise FieldError("model.depth", depth, "a wide ResNet has depth 6n + 4", "write for example 16, 28 or 34")
    return blocks


def wide_resnet(depth: int, width: int, **common) -> PreActResNet:
    """WRN-depth-width: a stem of 16 channels and three stages of 16, 32 and 64 times `width` channels."""
    return PreActResNet(
        stage_sizes=(blocks_per_stage(depth),) * 3,
        stage_widths=(16 * width, 32 * width, 64 * width),
        stem_width=16,
        **common,
    )
