"""Which remedies help the worst class, and at what price? On scikit-learn's digits: 84 runs of about a minute.

    jaxrobust study --study configs/studies/digits_remedies.py --workdir runs/studies/digits_remedies

Compares every remedy that acts in training, and every objective except the single-step ones, with plain PGD adversarial
training, three seeds each. Long-tail methods use the robust accuracy of a class in place of its number of images, since
all classes have the same number. For heads changed after training: `jaxrobust posthoc` and `jaxrobust compare`.
"""

from jaxrobust.studies import Study, levels, product


def remedy(name, **fields):
    return {"remedy.name": name} | {f"remedy.{field.replace('__', '.')}": value for field, value in fields.items()}


def by_difficulty(name, **fields):
    return remedy(name, counts="robust_accuracy", **fields)


AXES = {
    "remedy": {
        "pgd_at": {},
        "trades": {"objective.name": "trades"},
        "mart": {"objective.name": "mart", "objective.beta": 5.0},
        "bat": {"objective.name": "bat"},
        "variance_penalty": {"objective.name": "variance_penalty"},
        "awp": {"objective.awp_gamma": 0.005},
        "cfa": remedy("cfa"),
        "trades+cfa": {"objective.name": "trades"} | remedy("cfa", cfa__radius_base=0.3),
        "dafa": remedy("dafa"),
        "wat": remedy("wat", observe="validation"),
        "faal": remedy("faal"),
        "fair_ard": remedy("fair_ard"),
        "cfol": remedy("cfol", cfol__eta=2e-4),
        "frl": remedy("frl", observe="validation"),
        "spectral": remedy("spectral"),
        "fair_tat": remedy("fair_tat"),
        "reat": remedy("reat", counts="predicted"),
        "reweight": by_difficulty("reweight", reweight__weighting="inverse"),
        "resample": by_difficulty("resample"),
        "focal": remedy("focal"),
        "ldam": by_difficulty("ldam"),
        "ldam+drw": by_difficulty("ldam+reweight", reweight__begin=0.8, reweight__weighting="inverse"),
        "balanced_softmax": by_difficulty("balanced_softmax"),
        "logit_adjustment": by_difficulty("logit_adjustment", logit_adjustment__tau=2.0),
        "cdt": by_difficulty("cdt"),
        "vs": by_difficulty("vs"),
        "robal": by_difficulty("robal") | {"model.head": "cosine"},
        "robust_lt": by_difficulty("robust_lt"),
    },
    "seed": levels("train.seed", (0, 1, 2), "seed"),
}


def get_study():
    return Study(
        title="Which remedies help the worst class, and at what price?",
        question="Methods from long-tail learning and from fair robustness shift weights, radii, margins or draws "
        "between classes. Does the worst class gain, and what does the average lose?",
        base="../digits.py",
        axes=AXES,
        runs=product(AXES),
        fields={
            "eval.attacks": ("clean", "pgd20", "standard"),
            "eval.splits": ("test",),
            "eval.every_epochs": 30,
            "eval.examples": 200,
            "eval.batch_size": 200,
            "checkpoint.every_epochs": 30,
            "train.average_decay": 0.0,
        },
    )
