"""A check of the study itself: four classes whose order, and its change with the radius, are known from theory.

    jaxrobust study --study configs/studies/gaussians.py --workdir runs/studies/gaussians

A linear classifier of normal distributions around points on a line. The distances between the points are unequal, so
the classes are not equally robust. By theory, if training and evaluation use the same radius, the robust accuracies are
51.8 % for class 1, 58.3 % for class 2, 86.3 % for class 0 and 90.5 % for class 3. The gap widens with the radius of the
training, from 35.7 points (radius 0) over 38.7 to 44.3 (twice the radius of the evaluation). The momentum of the
optimizer has no effect on the gap, and the study should find none.
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
