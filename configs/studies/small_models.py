"""Is the discrepancy between classes universal, and which probes predict it? CIFAR-10 and Fashion-MNIST, on a CPU.

    jaxrobust study --study configs/studies/small_models.py --workdir runs/studies/small_models

Each setting differs from a reference setting in one choice: three architectures; learning rate, weight decay and
augmentation; two training radii. All settings are trained adversarially and naturally, with three seeds each. Images
have half the height and width, and there are a quarter of the training images of CIFAR-10, a fifth of those of
Fashion-MNIST, and few epochs: accuracies are far from those of large models.
"""

from jaxrobust.studies import Study, levels, one_at_a_time
from jaxrobust.studies.published import CIFAR10

FASHION_MNIST = {
    "data.name": "tfds:fashion_mnist",
    "data.image_size": 14,
    "data.shares": ("*:0.2",),
    "model.mean": (0.286,),
    "model.std": (0.353,),
    "threat.eps_255": 12.75,
}
AXES = {
    "data": {"cifar10": {}, "fashion_mnist": FASHION_MNIST},
    "architecture": {
        "cnn": {},
        "mlp": {"model.name": "mlp"},
        "wide_resnet": {"model.name": "wide_resnet", "model.depth": 10, "model.width": 1},
    },
    "learning_rate": {"rate0.1": {}, "rate0.02": {"optimizer.learning_rate": 0.02}},
    "weight_decay": {"decay0.0005": {}, "decay0.005": {"optimizer.weight_decay": 0.005}},
    "augmentation": {"crop+flip": {}, "plain": {"data.augment": ()}},
    "radius": {"radius1": {}, "radius0.5": {"attack.radius": 0.5}},
    "objective": {"pgd": {}, "natural": {"objective.name": "standard"}},
    "seed": levels("train.seed", (0, 1, 2), "seed"),
}


def get_study():
    crossed = one_at_a_time(AXES, across=("data", "objective", "seed"))
    return Study(
        title="Are the same classes weak whatever the setting?",
        question="Adversarial training leaves some classes much less robust than others. Is that a matter of the "
        "classes, or of how the classifier is built and trained?",
        base="../cifar10_small.py",
        axes=AXES,
        # Natural training does not depend on the training radius.
        runs=[run for run in crossed if not (run["objective"] == "natural" and run["radius"] != "radius1")],
        fields={
            "data.validation_per_class": 0,
            "attack.steps": 4,
            "attack.step_size_255": None,  # None: a quarter of the run's radius
            "optimizer.learning_rate": 0.1,
            "train.epochs": 6,
            "eval.splits": ("test",),
            "eval.every_epochs": 2,
            "checkpoint.every_epochs": 2,
        },
        published={"cifar10": CIFAR10},
        probes=True,
        probe_examples=1000,
    )
