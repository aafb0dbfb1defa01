"""Studies: a set of training runs that is declared as data, and their joint analysis.

A file under configs/studies/ holds `get_study()`:

    AXES = {
        "architecture": {"cnn": {}, "mlp": {"model.name": "mlp"}},
        "objective": {"pgd_at": {}, "standard": {"objective.name": "standard"}},
        "seed": levels("train.seed", (0, 1, 2), "seed"),
    }

    def get_study():
        return Study(title="...", base="../digits.py", axes=AXES, runs=product(AXES))

An axis is one factor of the study. A level is one value of an axis: the fields in which a run differs from the base
config. The analysis treats axes with these names specially:

    seed          runs that differ only in the seed are repetitions of one setting
    data          the data set: classes are compared within one data set
    objective     a level whose objective is `standard` is natural training, the others are adversarial training
    radius        levels differ in the radius of the training, or of the threat
    remedy        levels are the methods of the trade-off table; the first level is its base
    intervention  levels change what is learnt about some classes, or which classes exist; the first level changes
                  nothing, and all other answers use only the runs at this first level

All other axes have no special meaning: architecture, learning rate, augmentation and so on.

With `Study(..., probes=True)`, properties of the classes that may explain their robustness are also measured on every
adversarially trained run, see explanations/. They are ranked by how much of the discrepancy between classes they
predict in held-out settings.
"""

from jaxrobust.studies.design import Study, levels, load, one_at_a_time, product
