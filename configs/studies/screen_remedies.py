"""Which remedies are worth a confirmatory study? Successive rounds on validation images: 27 remedies, 48 small runs.

    jaxrobust study --study configs/studies/screen_remedies.py --workdir runs/studies/screen_remedies    # twice
    python configs/studies/screen_remedies.py                                                            # who is left

Each time the command trains one more round: all remedies with one seed, the better third with two more. Better is a
higher accuracy of the worst class, in the mean over seeds, on validation images; the base has all seeds. Test images
are not used, and confirm_remedies.py has other seeds, so what is found there is not the luck that chose it.
"""

import dataclasses
import math
import pathlib

import numpy as np

from jaxrobust import classwise
from jaxrobust.runs.reading import RunFiles
from jaxrobust.studies import levels, load

FOLDER = pathlib.Path("runs/studies/screen_remedies")
ROUNDS = ((100,), (101, 102))  # seeds
KEPT = 1 / 3  # of the remedies, after each round
ATTACK = "fast"
FIELDS = {
    "data.validation_per_class": 200,
    "eval.attacks": ("clean", ATTACK),
    "eval.splits": ("validation", "test"),
    "eval.examples": 2000,
}


def get_study():
    remedies = load(pathlib.Path(__file__).parent / "digits_remedies.py")
    axes = {
        "remedy": remedies.axes["remedy"],
        "seed": levels("train.seed", sum(ROUNDS, ()), "seed"),
    }
    return dataclasses.replace(
        remedies,
        title="Which remedies are worth a confirmatory study?",
        base="../cifar10_small.py",
        axes=axes,
        runs=[{"remedy": name, "seed": f"seed{seed}"} for name, seed in screened(axes["remedy"])[0]],
        fields=FIELDS,
    )


def screened(names) -> tuple[list[tuple[str, int]], list[str]]:
    """(remedy, seed) of the runs so far and of the next round, and who is left after the rounds that are done."""
    base, *names = names
    runs = [(base, seed) for seeds in ROUNDS for seed in seeds]
    for seeds in ROUNDS:
        added = [(name, seed) for name in names for seed in seeds]
        runs += added
        if not all(_is_scored(*run) for run in added):
            break
        worst = {name: _worst(name, [seed for of, seed in runs if of == name]) for name in names}
        names = sorted(names, key=lambda name: -worst[name])[: math.ceil(KEPT * len(names))]
    return runs, names


def _scores(name: str, seed: int) -> dict:
    run = RunFiles(FOLDER / "runs" / f"{name}-seed{seed}", "validation")
    return run.scores[run.last_checkpoint()]


def _is_scored(name: str, seed: int) -> bool:
    results = FOLDER / "runs" / f"{name}-seed{seed}" / "results.jsonl"
    return results.exists() and f'"{ATTACK}"' in results.read_text() and ATTACK in _scores(name, seed)


def _worst(name: str, seeds: list[int]) -> float:
    """Accuracy of the class that is the worst in the mean over the seeds."""
    scores = [_scores(name, seed)[ATTACK] for seed in seeds]
    return float(np.mean([classwise.class_accuracy(of.correct, of.count) for of in scores], 0).min())


if __name__ == "__main__":
    print(*screened(get_study().axes["remedy"])[1], sep="\n")
