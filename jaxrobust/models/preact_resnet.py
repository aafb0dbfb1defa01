"""Pre-activation residual networks (He et al. 2016, arXiv:1603.05027) for small images."""

from collections.abc import Callable

import flax.linen as nn

from jaxrobust.models.layers import Classifier, global_average_pool

SHORTCUTS = ("activation", "input")


class PreActBlock(nn.Module):
    """norm-ReLU-conv-norm-ReLU-conv, added to the input, or to a 1x1 convolution if shapes differ."""

    features: int
    stride: int
    conv: Callable
    norm: Callable
    shortcut: str = "activation"  # what the 1x1 convolution reads: that, after the first norm and ReLU, or the `input`

    @nn.compact
    def __call__(self, x):
        y = self.norm(name="norm1")(x, activate=True)
        if self.stride != 1 or x.shape[-1] != self.features:
            source = y if self.shortcut == "activation" else x
            x = self.conv(self.features, kernel_size=1, stride=self.stride, name="shortcut")(source)
        conv1 = self.conv(self.features, stride=self.stride, name="conv1")
        y = self.norm(name="norm2")(y, conv=conv1, activate=True)
        y = self.conv(self.features, name="conv2")(y)
        return x + y


class PreActResNet(Classifier):
    """Stages of pre-activation blocks; each stage after the first halves the resolution.

    The defaults are PreAct ResNet-18, of which the literature on robustness has two variants: with normalisation and
    ReLU before pooling, as in Rice et al. 2020 (arXiv:2002.11569), it has 11,172,170 parameters for ten classes of RGB
    images; without them 11,171,146. Check which one a published result is for.
    """

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)  # number of blocks of each stage
    stage_widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of each stage
    stem_width: int = 64  # channels of the stem
    final_batch_norm: bool = True  # whether batch normalisation and ReLU come before pooling
    # what 1x1 shortcuts read, `activation` as in Rice et al. 2020, or `input` as in Wong et al. 2020
    # (arXiv:2001.03994); the variables are the same either way.
    shortcut: str = "activation"

    @nn.compact
    def backbone(self, x, train: bool):
        conv, norm = self.layers(train)
        x = conv(self.stem_width, name="stem")(x)
        for stage, (size, features) in enumerate(zip(self.stage_sizes, self.stage_widths, strict=True)):
            for block in range(size):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                x = PreActBlock(features, stride, conv, norm, self.shortcut, name=name)(x)
        if self.final_batch_norm:
            x = norm(name="final_norm")(x, activate=True)
        return global_average_pool(x)


def preact_resnet18(width: int = 64, **options) -> PreActResNet:
    """PreAct ResNet-18 whose stem has `width` channels, and stages 1, 2, 4 and 8 times as many."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return PreActResNet(stage_widths=widths, stem_width=width, **options)
