"""A small convolutional network for adversarial training where there is no accelerator."""

import flax.linen as nn

from jaxrobust.models.layers import Classifier, global_average_pool


class CNN(Classifier):
    """Five 3x3 convolutions at full, half and quarter resolution, each with batch normalisation and ReLU.

    One convolution at full resolution, where a wide one costs most; two at each lower one, so that a feature sees 21x21
    pixels. That is 29 million multiply-adds for a 32x32 image at the default width, a nineteenth of ResNet-18. Two
    halvings leave 2x2 positions of an 8x8 image, and global average pooling takes images of any size.

    Attributes:
        width: channels at full resolution; twice and four times as many below.
    """

    width: int = 32

    @nn.compact
    def backbone(self, x, train: bool):
        conv, norm = self.layers(train)
        for index, (factor, stride) in enumerate([(1, 1), (2, 2), (2, 1), (4, 2), (4, 1)], start=1):
            layer = conv(factor * self.width, stride=stride, name=f"conv{index}")
            x = norm(name=f"norm{index}")(x, conv=layer, activate=True)
        return global_average_pool(x)
