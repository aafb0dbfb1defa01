"""A study of two trainings of seconds."""

from runs import TESTS

from jaxrobust.studies import design

STUDY = """
from jaxrobust.studies import Study, levels, product

AXES = {"rate": {"fast": {}, "slow": {"optimizer.learning_rate": 0.02}}, "seed": levels("train.seed", (0,), "seed")}

def get_study():
    return Study(title="Small", base=BASE, axes=AXES, runs=product(AXES), fields=FIELDS)
"""
FIELDS = {"model.name": "linear", "eval.splits": ("test",), "train.average_decay": 0.0, "train.epochs": 2}
FIELDS |= {"eval.every_epochs": 1}


def declare(path, **fields):
    """Write the study, with these fields set otherwise; returns its path."""
    path.write_text(f"BASE = {str(TESTS / 'tiny_config.py')!r}\nFIELDS = {FIELDS | fields!r}\n" + STUDY)
    return path


def plan(path):
    return design.plan(design.load(path), path.parent)
