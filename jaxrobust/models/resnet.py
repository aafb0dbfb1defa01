"""Residual networks (He et al. 2015, arXiv:1512.03385) with the stem for small images: 3x3, stride 1, no pooling."""

from collections.abc import Callable

import flax.linen as nn

from jaxrobust.models.layers import Classifier, global_average_pool


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
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = self.conv(self.features, kernel_size=1, stride=self.stride, name="shortcut")
            x = self.norm(name="shortcut_norm")(x, conv=shortcut)
        return self.norm(name="norm2")(y, conv=conv2, residual=x, activate=True)


class ResNet(Classifier):
    """Stages of basic blocks; each stage after the first halves the resolution and doubles the channels.

    Attributes:
        stage_sizes: number of blocks of each stage; (2, 2, 2, 2) is ResNet-18 and (3, 4, 6, 3) is ResNet-34.
        width: channels of the stem and of the first stage.
    """

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64

    @nn.compact
    def backbone(self, x, train: bool):
        conv, norm = self.layers(train)
        x = norm(name="stem_norm")(x, conv=conv(self.width, name="stem"), activate=True)
        for stage, size in enumerate(self.stage_sizes):
            for block in range(size):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                x = BasicBlock(self.width * 2**stage, stride, conv, norm, name=name)(x)
        return global_average_pool(x)
