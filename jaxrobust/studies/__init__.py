"""Studies: a matrix of trainings declared as data, and what they say together.

A file under configs/studies/ holds `get_study()`:

    AXES = {
        "architecture": {"cnn": {}, "mlp": {"model.name": "mlp"}},
        "objective": {"pgd_at": {}, "standard": {"objective.name": "standard"}},
        "seed": levels("train.seed", (0, 1, 2), "seed"),
    }

    def get_study():
        return Study(title="...", base="../digits.py", axes=AXES, runs=product(AXES))

An axis is a choice, a level one of its values: the fields in which a run differs from the base config. Axes of some
names mean something to the answers:

    seed        runs that differ in it alone are draws of one setting
    data        the data set: classes are compared within one
    objective   a level whose objective is `standard` is natural training, the others are adversarial
    radius      levels differ in the radius of the training, or of the threat
    remedy      levels are what the price list compares; the first one is its base

All others are settings of no special meaning, such as architecture, learning rate, or augmentation.
"""

from jaxrobust.studies.design import Study, levels, one_at_a_time, product

__all__ = ["Study", "levels", "one_at_a_time", "product"]
