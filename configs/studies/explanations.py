"""What makes a class weak? Probes of three architectures, and interventions on one class, on a CPU.

    jaxrobust study --study configs/studies/explanations.py --workdir runs/studies/explanations

Cats are the weakest class of CIFAR-10. Is the reason that other animals look similar? Models are trained with the cats
among four animals, and among four vehicles; with cats and dogs merged into one class; with half and with twice the
number of cat images; and with a smaller and a larger radius for cats. Three seeds each.
"""

from jaxrobust.studies import Study, levels, product

CAT = 3  # label of the cats
AXES = {
    "architecture": {
        "cnn": {},
        "mlp": {"model.name": "mlp"},
        "wide_resnet": {"model.name": "wide_resnet", "model.depth": 10, "model.width": 1},
    },
    "intervention": {
        "all": {},
        "cat+animals": {"data.drop": ("airplane", "automobile", "ship", "truck", "horse")},
        "cat+vehicles": {"data.drop": ("bird", "deer", "dog", "frog", "horse")},
        "cat=dog": {"data.merge": ("cat+dog",)},
        "half_cats": {"data.shares": ("*:0.25", "cat:0.125")},
        "double_cats": {"data.shares": ("*:0.25", "cat:0.5")},
        "cat_radius0.5": {"remedy.name": "fixed", "remedy.fixed.radius": (f"{CAT}:0.5",)},
        "cat_radius1.5": {"remedy.name": "fixed", "remedy.fixed.radius": (f"{CAT}:1.5",)},
    },
    "objective": {"pgd": {}, "natural": {"objective.name": "standard"}},
    "seed": levels("train.seed", (0, 1, 2), "seed"),
}


def get_study():
    # Architectures and natural training without intervention; interventions on one architecture, trained adversarially.
    return Study(
        title="What makes a class weak?",
        question="Is the cat weak because of what it is, because of what it is taken for, or because of how much is "
        "learnt of it?",
        base="../cifar10_small.py",
        axes=AXES,
        runs=[
            run
            for run in product(AXES)
            if run["intervention"] == "all" or (run["architecture"] == "cnn" and run["objective"] == "pgd")
        ],
        fields={
            "data.validation_per_class": 0,
            "attack.steps": 4,
            "attack.step_size_255": None,
            "optimizer.learning_rate": 0.1,
            "train.epochs": 6,
            "checkpoint.every_epochs": 6,
            "eval.splits": ("test",),
            "eval.every_epochs": 6,
            "eval.examples": 0,
        },
        probes=True,
        probe_examples=1000,
    )
