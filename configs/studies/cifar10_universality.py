"""Is the discrepancy between classes universal? CIFAR-10 with models of full size: 90 runs for GPUs.

    jaxrobust study --study configs/studies/cifar10_universality.py --workdir runs/studies/cifar10 --list

Each setting differs from that of configs/cifar10.py in one choice: architecture, adversarial objective, learning rate,
weight decay, batch size, schedule, optimiser, augmentation, or training radius. Adversarial and natural training, three
seeds each. `--shard i/n` trains a part of the runs, see launch/. For a CPU: small_models.py.
"""

from jaxrobust.studies import Study, levels, one_at_a_time
from jaxrobust.studies.published import CIFAR10

AXES = {
    "architecture": {
        "resnet18": {},
        "preact_resnet18": {"model.name": "preact_resnet18"},
        "resnet50": {"model.name": "resnet50"},
        "wide_resnet16x8": {"model.name": "wide_resnet", "model.depth": 16, "model.width": 8},
        "cnn": {"model.name": "cnn", "model.width": 64},
    },
    "objective": {
        "pgd_at": {},
        "natural": {"objective.name": "standard"},
        "trades": {"objective.name": "trades"},
    },
    "learning_rate": {"rate0.1": {}, "rate0.02": {"optimizer.learning_rate": 0.02}},
    "weight_decay": {
        "decay0.0005": {},
        "decay0": {"optimizer.weight_decay": 0.0},
        "decay0.002": {"optimizer.weight_decay": 0.002},
    },
    "batch_size": {"batch128": {}, "batch512": {"train.batch_size": 512, "optimizer.warmup": 0.05}},
    "schedule": {"110epochs": {}, "30epochs": {"train.epochs": 30, "optimizer.schedule": "one_cycle"}},
    "optimizer": {
        "sgd": {},
        "adamw": {"optimizer.name": "adamw", "optimizer.learning_rate": 1e-3, "optimizer.weight_decay": 0.05},
    },
    "augmentation": {"crop+flip": {}, "flip": {"data.augment": ("flip",)}, "none": {"data.augment": ()}},
    "radius": {
        "radius8": {},
        "radius2": {"attack.radius": 0.25},
        "radius4": {"attack.radius": 0.5},
        "radius12": {"attack.radius": 1.5},
    },
    "seed": levels("train.seed", (0, 1, 2), "seed"),
}


def get_study():
    adversarial = one_at_a_time(AXES | {"objective": {"pgd_at": {}, "trades": {}}})
    natural = one_at_a_time(AXES | {"objective": {"natural": {}}, "radius": {"radius8": {}}})
    return Study(
        title="Are the same classes weak whatever the setting?",
        question="Adversarial training leaves some classes much less robust than others. Is that a matter of the "
        "classes, or of how the classifier is built and trained?",
        base="../cifar10.py",
        axes=AXES,
        runs=adversarial + natural,
        fields={
            "attack.step_size_255": None,  # None: a quarter of the run's radius
            "eval.attacks": ("clean", "pgd20"),
            "eval.splits": ("test",),
            "eval.every_epochs": 10,
            "checkpoint.every_epochs": 10,
        },
        published={"": CIFAR10},
        probes=True,
    )
