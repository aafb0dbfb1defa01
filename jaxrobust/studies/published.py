"""Published robust accuracies of classes, for a study to compare its own order of the classes with."""

_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _by_name(*accuracy: float) -> dict[str, float]:
    return dict(zip(_NAMES, accuracy, strict=True))


# Adversarially trained against PGD at 8/255, on the test set under PGD at 8/255.
CIFAR10 = {
    # Xu et al., To be Robust or to be Fair (ICML 2021), figure 1(b), read off to about 0.01.
    "PreAct ResNet-18 of Xu et al. 2021": _by_name(
        0.538, 0.649, 0.304, 0.162, 0.224, 0.333, 0.460, 0.549, 0.589, 0.562
    ),
    # github.com/rishanu98/Class-Wise-Adversarial-Robustness, its confusion matrix of PGD-7 training and testing.
    "ResNet-18 of rishanu98/Class-Wise-Adversarial-Robustness": _by_name(
        0.55, 0.67, 0.30, 0.22, 0.27, 0.37, 0.55, 0.60, 0.66, 0.63
    ),
}
