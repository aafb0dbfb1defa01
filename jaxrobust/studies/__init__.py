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

    seed          runs that differ in it alone are draws of one setting
    data          the data set: classes are compared within one
    objective     a level whose objective is `standard` is natural training, the others are adversarial
    radius        levels differ in the radius of the training, or of the threat
    remedy        levels are what the price list compares; the first one is its base
    intervention  levels change what is learnt of some classes, or which there are; the first changes nothing, and
                  all other answers are of it alone

All others are settings of no special meaning, such as architecture, learning rate, or augmentation.

With `Study(..., probes=True)` what goes along with the robustness of a class is measured on every adversarially trained
run as well, see explanations/, and ranked by how much of the discrepancy it predicts in settings held out.
"""

from jaxrobust.studies.design import Study, levels, load, one_at_a_time, product

__all__ = ["Study", "levels", "load", "one_at_a_time", "product"]
