"""Two runs of which it is known what each classifies correctly, as evaluations write them."""

import numpy as np

from jaxrobust.runs import results

NAMES = ("cat", "dog", "deer")
LABELS = np.repeat([0, 1, 2], [40, 40, 20])
SETTINGS = {"norm": "linf", "eps": 8 / 255, "step_size": 2 / 255, "steps": 20, "restarts": 1}


def rank_of():
    return np.concatenate([np.arange(n) for n in (40, 40, 20)])


# Of 40 cats A keeps 10 and B the same and 15 more; of 40 dogs A keeps 30 and B loses one of them and gains 3 others.
ROBUST_A = np.where(LABELS == 0, rank_of() < 10, rank_of() < 30)
ROBUST_B = np.where(LABELS == 0, rank_of() < 25, (rank_of() < 33) & (rank_of() != 0))


def write(
    workdir, is_robust, *, step=100, weights="raw", split="test", subset=None, names=NAMES, labels=LABELS, **more
):
    """Add a checkpoint's results, as an evaluation writes them; wrong predictions are the next class."""
    workdir.mkdir(exist_ok=True)
    if not (workdir / "config.json").exists():
        results.CONFIG.write(workdir, {"train": {"epochs": 1, "seed": 0}})
    subset = np.arange(labels.size) if subset is None else np.asarray(subset)
    labels, is_robust = labels[subset], is_robust[subset]
    arrays = {"labels": labels, "index": subset}
    for attack, settings in {"clean": {}, "pgd20": SETTINGS, **more}.items():
        right = np.ones_like(is_robust) if attack == "clean" else is_robust
        prediction = np.where(right, labels, (labels + 1) % len(names))
        record = results.make_record(
            step=step,
            epoch=step // 100,
            weights=weights,
            split=split,
            attack=attack,
            class_names=names,
            labels=labels,
            prediction=prediction,
            clean_prediction=labels,
            passes=1.0,
            idle=0.0,
            seconds=1.0,
            **settings,
        )
        results.append(workdir, record)
        arrays |= {attack: prediction == labels, f"{attack}_prediction": prediction}
    results.add_examples(workdir, step, weights, split, arrays)
    return workdir
