"""A small convolutional network for adversarial training without an accelerator."""

import flax.linen as nn

from jaxrobust.models.layers import Classifier, global_average_pool


class CNN(Classifier):
    """Five 3x3 convolutions at full, half and quarter resolution, each with batch normalisation and ReLU.

    There is one convolution at full resolution, where convolutions cost most, and two at each lower one, so that the
    receptive field is 21x21 pixels. It needs 29 million multiply-adds for a 32x32 image at the default width, 1/19 of
    ResNet-18. An 8x8 image is reduced to 2x2 positions; global average pooling accepts images of any size.
    """

    width: int = 32  # channels at full resolution; twice and four times as many below

    @nn.compact
    def backbone(self, x, train: bool):
        conv, norm = self.layers(train)
        for index, (factor, stride) in enumerate([(1, 1), (2, 2), (2, 1), (4, 2), (4, 1)], start=1):
            layer = conv(factor * self.width, stride=stride, name=f"conv{index}")
            x = norm(name=f"norm{index}")(x, conv=layer, activate=True)
        return global_average_pool(x)
