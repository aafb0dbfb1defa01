"""Is the discrepancy between classes universal on 1,000 classes? ImageNet, for many accelerators.

    jaxrobust study --study configs/studies/imagenet.py --workdir runs/studies/imagenet --list

ResNet-50 and ResNet-18, two training radii, one-step and multi-step attacks, two seeds, and natural training of each.
Every run uses all hosts of a job; `--shard i/n` distributes the runs over the jobs of an array.
"""

from jaxrobust.studies import Study, levels, product

AXES = {
    "architecture": {"resnet50": {}, "resnet18": {"model.name": "resnet18"}},
    "objective": {
        "fgsm_rs": {},
        "pgd4": {"config": "../imagenet.py", "attack.steps": 4},
        "natural": {"objective.name": "standard"},
    },
    "radius": {"radius4": {}, "radius2": {"attack.radius": 0.5}},
    "seed": levels("train.seed", (0, 1), "seed"),
}


def get_study():
    return Study(
        title="Are the same classes weak whatever the setting, of a thousand?",
        question="Adversarial training leaves some classes much less robust than others. Is that so of many classes, "
        "and are they the same ones in each setting?",
        base="../imagenet_fast.py",
        axes=AXES,
        # Natural training does not depend on the training radius.
        runs=[run for run in product(AXES) if run["objective"] != "natural" or run["radius"] == "radius4"],
        fields={
            # None: 1.25 radii for a single step, a quarter of the radius for several steps.
            "attack.step_size_255": None,
            "eval.attacks": ("clean", "pgd20"),
            "eval.splits": ("test",),
            "eval.examples": 0,  # all 50 images of each class
            "eval.every_epochs": 15,
            "checkpoint.every_epochs": 5,
        },
    )
