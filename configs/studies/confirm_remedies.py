"""Does anything help the worst class, and at what price? Three candidates on small CIFAR-10, all 10,000 test images.

    jaxrobust study --study configs/studies/confirm_remedies.py --workdir runs/studies/confirm_remedies --processes 2
    for seed in 10 11 12 13 14 15; do
        jaxrobust posthoc --workdir runs/studies/confirm_remedies/runs/pgd_at-seed$seed --remedy bias_balance \\
            --out runs/studies/confirm_remedies/bias_balance-seed$seed
        jaxrobust evaluate --workdir runs/studies/confirm_remedies/bias_balance-seed$seed
    done
    jaxrobust compare runs/studies/confirm_remedies/runs/pgd_at-* runs/studies/confirm_remedies/runs/[!p]* \\
        runs/studies/confirm_remedies/bias_balance-*

The candidates were chosen on other images and seeds (screen_remedies.py, or few test images before). The worst class of
each method is named on validation images, so that its difference is tested on all test images without a correction for
that choice. Two and a half minutes of a core each: 24 runs in half an hour on two cores, the heads in minutes more.

The suite is cheap, and has a loss that no scale of the logits moves. Of 1,000 images of one run it leaves 264 robust,
apgd_ce20+apgd_t20 leaves 263. How `standard` compares: jaxrobust evaluate --workdir RUN
"--config.eval.attacks=('standard',)" --config.eval.examples=1000
"""

import dataclasses
import pathlib

from jaxrobust.studies import levels, load, product

CANDIDATES = ("trades", "trades+cfa", "frl")  # what screen_remedies.py leaves goes here
SUITE = "apgd_ce10+apgd_t5"


def get_study():
    screening = load(pathlib.Path(__file__).parent / "screen_remedies.py")
    remedies = screening.axes["remedy"]
    axes = {
        "remedy": {name: remedies[name] for name in ("pgd_at", *CANDIDATES)},
        "seed": levels("train.seed", range(10, 16), "seed"),
    }
    return dataclasses.replace(
        screening,
        title="Does anything help the worst class, and at what price?",
        axes=axes,
        runs=product(axes),
        fields=screening.fields | {"eval.attacks": ("clean", "pgd20", SUITE), "eval.examples": 0},
    )
