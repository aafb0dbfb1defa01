"""Is the discrepancy between classes universal? On scikit-learn's digits, in minutes on a laptop.

    jaxrobust study --study configs/studies/digits.py --workdir runs/studies/digits

Each setting differs from a reference setting in one choice: three architectures, two learning rates, two training
radii, with and without augmentation. All settings are trained adversarially and naturally, with three seeds each.
"""

from jaxrobust.studies import Study, levels, one_at_a_time

AXES = {
    "architecture": {"cnn": {}, "mlp": {"model.name": "mlp"}, "linear": {"model.name": "linear"}},
    "learning_rate": {"rate0.05": {}, "rate0.01": {"optimizer.learning_rate": 0.01}},
    "augmentation": {"plain": {}, "crop": {"data.augment": ("crop",), "data.pad": 1}},
    "radius": {"radius38": {}, "radius19": {"attack.radius": 0.5}},
    "objective": {"pgd": {}, "natural": {"objective.name": "standard"}},
    "seed": levels("train.seed", (0, 1, 2), "seed"),
}


def get_study():
    crossed = one_at_a_time(AXES, across=("objective", "seed"))
    return Study(
        title="Are the same digits weak whatever the setting?",
        question="Adversarial training leaves some digits much less robust than others. Is that a matter of the "
        "digits, or of how the classifier is built and trained?",
        base="../digits.py",
        axes=AXES,
        # Natural training does not depend on the training radius.
        runs=[run for run in crossed if not (run["objective"] == "natural" and run["radius"] != "radius38")],
        fields={
            "eval.attacks": ("clean", "pgd20"),
            "eval.splits": ("test",),
            "eval.every_epochs": 10,
            "checkpoint.every_epochs": 10,
            "train.average_decay": 0.0,
        },
    )
