"""Workdirs as training and evaluation leave them, with known accuracies."""

import json

import numpy as np

from jaxrobust.runs import results

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# Accuracies of PGD adversarial training on CIFAR-10, Xu et al., ICML 2021, figure 1b.
CLEAN = np.array([0.880, 0.929, 0.762, 0.682, 0.800, 0.738, 0.891, 0.889, 0.933, 0.909])
PGD = np.array([0.538, 0.649, 0.304, 0.162, 0.224, 0.333, 0.460, 0.549, 0.589, 0.562])
PGD_SETTINGS = {"norm": "linf", "eps": 8 / 255, "step_size": 2 / 255, "steps": 20, "restarts": 1}
CONFIG = {
    "data": {"name": "tfds:cifar10"},
    "model": {"name": "preact_resnet18"},
    "threat": {"norm": "linf", "eps_255": 8.0, "eps": None},
    "objective": {"name": "pgd_at"},
    "train": {"epochs": 2, "seed": 7},
}


def write_run(
    workdir,
    names=NAMES,
    clean=CLEAN,
    robust=PGD,
    per_class=1000,
    steps=(100, 200),
    weights=("raw", "averaged"),
    splits=("validation", "test"),
    attacks=("clean", "pgd20"),
    best=True,
    **more,
):
    """A workdir as training and evaluation leave it; mistakes go to the next class.

    Args:
        more: further attacks and suites, with the accuracy of each class under them. A suite has two members, of which
            the second breaks nothing more.
    """
    counts = np.broadcast_to(per_class, len(names))
    labels = np.repeat(np.arange(len(names)), counts)
    rank = np.concatenate([np.arange(n) for n in counts])
    predictions = {
        attack: np.where(rank < np.round(np.asarray(accuracy)[labels] * counts[labels]), labels, labels + 1)
        % len(names)
        for attack, accuracy in {"clean": clean, "pgd20": robust, **more}.items()
    }
    suites = {attack: ("apgd_ce", "apgd_t") for attack in more if attack in ("standard", "plus")}
    stages = {f"{suite}/{member}": suite for suite, members in suites.items() for member in members}
    predictions |= {stage: predictions[suite] for stage, suite in stages.items()}
    attacks = (*attacks, *stages, *more)
    for step in steps:
        for kind in weights:
            for split in splits:
                arrays = {"labels": labels}
                for attack in attacks:
                    settings = dict.fromkeys(PGD_SETTINGS) if attack == "clean" else PGD_SETTINGS
                    if attack in suites:
                        settings = settings | {"members": list(suites[attack])}
                    prediction = predictions[attack]
                    record = results.make_record(
                        step=step,
                        epoch=step // 100,
                        weights=kind,
                        split=split,
                        attack=attack,
                        class_names=names,
                        labels=labels,
                        prediction=prediction,
                        clean_prediction=predictions["clean"],
                        passes=1.0,
                        idle=0.0,
                        seconds=1.0,
                        **settings,
                    )
                    results.append(workdir, record)
                    arrays |= {attack: prediction == labels, f"{attack}_prediction": prediction}
                results.add_examples(workdir, step, kind, split, arrays)
        results.append_training(
            workdir, {"epoch": step // 100, "step": step, "loss": 1.0, "train_class_accuracy": [0.5] * len(names)}
        )
    (workdir / "config.json").write_text(json.dumps(CONFIG))
    if best:
        chosen = {"step": steps[0], "epoch": steps[0] // 100, "weights": weights[-1]}
        (workdir / results.BEST).write_text(json.dumps(chosen | {"criterion": "sum", "score": 0.599}))
    return workdir


SUITE = np.array([0.5, 0.62, 0.25, 0.10, 0.08, 0.30, 0.42, 0.52, 0.56, 0.54])  # deer is the worst, not cat
