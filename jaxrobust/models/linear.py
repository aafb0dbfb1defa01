"""Models without convolutions: a linear classifier, and a multilayer perceptron."""

import flax.linen as nn

from jaxrobust.models.layers import Classifier, Linear, relu


class LinearClassifier(Classifier):
    """Softmax regression on the pixels. Its Linf worst case has a closed form, which attacks can be checked against."""

    def backbone(self, x, train: bool):
        return x.reshape(len(x), -1)


class MLP(Classifier):
    """Fully connected layers with ReLU."""

    hidden: tuple[int, ...] = (256, 256)  # width of each hidden layer

    @nn.compact
    def backbone(self, x, train: bool):
        x = x.reshape(len(x), -1)
        for index, width in enumerate(self.hidden, start=1):
            x = relu(Linear(width, self.dtype, name=f"hidden{index}")(x))
        return x
