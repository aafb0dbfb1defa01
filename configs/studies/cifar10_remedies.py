"""Which remedies help the worst class, and at what price? CIFAR-10, ResNet-18, full schedule: 84 runs for a GPU.

    jaxrobust study --study configs/studies/cifar10_remedies.py --workdir runs/studies/cifar10_remedies

The remedies are those of digits_remedies.py. `--shard i/n` trains a part of the runs, see launch/. For a small study on
a CPU, set `base="../cifar10_small.py"` below and a larger `remedy.cfol.eta`, since there are fewer images.
"""

import dataclasses
import pathlib

from jaxrobust.studies import load

HERE = pathlib.Path(__file__).parent


def get_study():
    digits = load(HERE / "digits_remedies.py")
    remedies = digits.axes["remedy"]
    remedies["cfol"]["remedy.cfol.eta"] = 5e-6  # the published value, for this number of images
    return dataclasses.replace(
        digits,
        base="../cifar10.py",
        fields={
            "eval.attacks": ("clean", "pgd20", "standard"),
            "eval.splits": ("test",),
            "eval.every_epochs": 110,
            "checkpoint.every_epochs": 10,
        },
    )
