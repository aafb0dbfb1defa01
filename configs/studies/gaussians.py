"""Four classes whose order, and how it moves with the radius, follow from theory: a study of the study.

    python -m jaxrobust.study --study configs/studies/gaussians.py --workdir runs/studies/gaussians

Normal distributions around points of one line, seen by a linear classifier. Their distances are unequal, so their
robustness is too: by theory, trained with the radius that they are judged at, 51.8 % of class 1 withstand, 58.3 of 2,
86.3 of 0 and 90.5 of 3. The gap widens with the radius of the training, from 35.7 points (none) over 38.7 to 44.3
(twice that radius). Whether steps have momentum has no effect on it, and the study should find none.
"""

from jaxrobust.studies import Study, levels, product

AXES = {
    "radius": {"radius0": {"attack.radius": 0.0}, "radius1": {}, "radius2": {"attack.radius": 2.0}},
    "momentum": {"momentum0.9": {}, "momentum0": {"optimizer.momentum": 0.0, "optimizer.learning_rate": 1.0}},
    "seed": levels("train.seed", range(5), "seed"),
}


def get_study():
    return Study(
        title="Four Gaussians on a line",
        question="Does the study find what theory says of them?",
        base="../gaussians.py",
        axes=AXES,
        runs=product(AXES),
    )
