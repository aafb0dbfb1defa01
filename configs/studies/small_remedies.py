"""Do the remedies that seem to help the worst class do so? Candidates on small CIFAR-10: 15 runs of a few minutes.

    jaxrobust study --study configs/studies/small_remedies.py --workdir runs/studies/small_remedies

If many remedies are tried on few images, some gain by chance. The candidates gained both on the digits and on CIFAR-10,
with seeds 0 to 2. Here they are trained with other seeds and scored on more images. Heads changed after training are
candidates too: see "What helps the worst class" in the README.
"""

import dataclasses
import pathlib

from jaxrobust.studies import levels, load, product

CANDIDATES = ("pgd_at", "dafa", "frl", "trades", "trades+cfa")


def get_study():
    digits = load(pathlib.Path(__file__).parent / "digits_remedies.py")
    remedies = digits.axes["remedy"]
    axes = {
        "remedy": {name: remedies[name] for name in CANDIDATES},
        "seed": levels("train.seed", (3, 4, 5), "seed"),
    }
    return dataclasses.replace(
        digits,
        title="Do the remedies that seem to help the worst class do so?",
        base="../cifar10_small.py",
        axes=axes,
        runs=product(axes),
        fields={
            "eval.attacks": ("clean", "pgd20", "standard"),
            "eval.splits": ("test",),
            "eval.examples": 1000,
        },
    )
