"""LeNet-5 as used in adversarial training: the MNIST network of advertorch (Ding et al. 2019, arXiv:1902.07623)."""

import flax.linen as nn

from jaxrobust.models.layers import Classifier, Linear, relu


class LeNet5(Classifier):
    """Two 3x3 convolutions with ReLU and 2x2 max-pooling, then a hidden layer of 200.

    Features are flattened in NHWC order; `torch_weights` permutes weights of networks that flatten channels first. The
    size of the hidden layer's kernel depends on the image size, which must be at least 4x4.
    """

    @nn.compact
    def backbone(self, x, train: bool):
        conv, _ = self.layers(train)
        for index, channels in enumerate([32, 64], start=1):
            x = relu(conv(channels, use_bias=True, name=f"conv{index}")(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        return relu(Linear(200, self.dtype, name="hidden")(x))
