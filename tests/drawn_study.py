"""A study whose truth is known: accuracies are drawn, and written as a training and an evaluation write them."""

import numpy as np

from jaxrobust import config as config_lib, files
from jaxrobust.runs import results
from jaxrobust.studies import Study, design, levels, product, running

NAMES = ("cat", "deer", "bird", "dog", "car")
ORDER = np.array([0.2, 0.35, 0.5, 0.6, 0.8])  # robust accuracies, in the order of the names
IMAGES = 400
AXES = {
    "architecture": {"cnn": {}, "mlp": {"model.name": "mlp"}},
    "radius": {"whole": {}, "half": {"attack.radius": 0.5}},
    "objective": {"pgd": {}, "natural": {"objective.name": "standard"}},
    "seed": levels("train.seed", (0, 1, 2), "seed"),
}
RUNS = [run for run in product(AXES) if not (run["objective"] == "natural" and run["radius"] == "half")]
FIELDS = {"train.epochs": 2, "train.average_decay": 0.0, "eval.attacks": ("clean", "pgd20"), "eval.splits": ("test",)}


def study(**changes):
    return Study(
        **{"title": "T", "base": "../configs/digits.py", "axes": AXES, "runs": RUNS, "fields": FIELDS} | changes
    )


def plan(of):
    return design.plan(of, __file__.rsplit("/", 1)[0])


def truth(run) -> np.ndarray:
    """Robust accuracies: the gap is half as wide at half the radius, and narrow without attack, where all are high."""
    if run.config.objective.name == "standard":
        return 0.95 + 0.1 * (ORDER - ORDER.mean())
    return ORDER.mean() + run.config.attack.radius * (ORDER - ORDER.mean())


def write(workdir, run, rng, probabilities=truth):
    """The files of a run that is done, two epochs of one step each."""
    folder = running.folder(workdir, run)
    folder.mkdir(parents=True)
    files.write_atomically(folder / "config.json", files.to_json(config_lib.to_dict(run.config)))
    labels = np.repeat(np.arange(len(NAMES)), IMAGES)
    for epoch in (1, 2):
        line = {"epoch": epoch, "step": epoch, "train_class_count": [64] * len(NAMES), "images_per_second": 100.0}
        results.append_training(folder, line)
        clean = rng.random(labels.size) < 0.95
        robust = rng.random(labels.size) < np.clip(probabilities(run), 0, 1)[labels]
        for attack, right in (("clean", clean | robust), ("pgd20", robust)):
            record = results.make_record(
                **{"step": epoch, "epoch": epoch, "weights": "raw", "split": "test", "attack": attack},
                **{"class_names": NAMES, "labels": labels, "passes": 1.0, "idle": 0.0, "seconds": 1.0},
                prediction=np.where(right, labels, (labels + 1) % len(NAMES)),
                clean_prediction=np.where(clean | robust, labels, (labels + 1) % len(NAMES)),
            )
            results.append(folder, record)
        arrays = {"labels": labels, "index": np.arange(labels.size), "clean": clean | robust, "pgd20": robust}
        results.add_examples(folder, epoch, "raw", "test", arrays)
