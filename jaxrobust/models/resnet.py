"""Residual networks (He et al. 2015, arXiv:1512.03385), with a stem for small images or the stem for ImageNet."""

from collections.abc import Callable

import flax.linen as nn

from jaxrobust.models.layers import Classifier, global_average_pool, max_pool

STEMS = ("small", "imagenet")


class BasicBlock(nn.Module):
    """conv-norm-ReLU-conv-norm, added to the shortcut, then ReLU."""

    features: int
    stride: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        conv1 = self.conv(self.features, stride=self.stride, name="conv1")
        conv2 = self.conv(self.features, name="conv2")
        y = self.norm(name="norm1")(x, conv=conv1, activate=True)
        x = _shortcut(self, x, self.features)
        return self.norm(name="norm2")(y, conv=conv2, residual=x, activate=True)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last to 4 times the features, added to the shortcut, then ReLU.

    The 3x3 convolution has the stride, as in torchvision and in ResNet v1.5; in the paper the first 1x1 has it.
    """

    features: int
    stride: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        conv1 = self.conv(self.features, kernel_size=1, name="conv1")
        conv2 = self.conv(self.features, stride=self.stride, name="conv2")
        conv3 = self.conv(4 * self.features, kernel_size=1, name="conv3")
        y = self.norm(name="norm1")(x, conv=conv1, activate=True)
        y = self.norm(name="norm2")(y, conv=conv2, activate=True)
        x = _shortcut(self, x, 4 * self.features)
        return self.norm(name="norm3")(y, conv=conv3, residual=x, activate=True)


def _shortcut(block, x, features: int):
    """A block's input x; a 1x1 convolution brings it to the shape of the output if the shapes differ."""
    if block.stride == 1 and x.shape[-1] == features:
        return x
    conv = block.conv(features, kernel_size=1, stride=block.stride, name="shortcut")
    return block.norm(name="shortcut_norm")(x, conv=conv)


class ResNet(Classifier):
    """Stages of blocks; each stage after the first halves the resolution and doubles the channels."""

    # number of blocks in each stage. With basic blocks, (2, 2, 2, 2) is ResNet-18 and (3, 4, 6, 3) is ResNet-34; with
    # bottleneck blocks, (3, 4, 6, 3) is ResNet-50.
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    block: Callable[..., nn.Module] = BasicBlock  # type of the blocks
    width: int = 64  # channels of the stem, and features of the blocks of the first stage
    # `small` keeps the resolution, by a 3x3 convolution; `imagenet` quarters it, by a 7x7 convolution of stride 2 and
    # max pooling.
    stem: str = "small"

    @nn.compact
    def backbone(self, x, train: bool):
        conv, norm = self.layers(train)
        stem = {"kernel_size": 7, "stride": 2} if self.stem == "imagenet" else {"kernel_size": 3}
        x = norm(name="stem_norm")(x, conv=conv(self.width, name="stem", **stem), activate=True)
        if self.stem == "imagenet":
            x = max_pool(x)
        for stage, size in enumerate(self.stage_sizes):
            for block in range(size):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                x = self.block(self.width * 2**stage, stride, conv, norm, name=name)(x)
        return global_average_pool(x)
