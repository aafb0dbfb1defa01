"""Adversarial robustness of image classifiers in JAX, class by class.

    import jaxrobust as jr

    verdicts = jr.attack(logits_fn, images, labels, "standard", norm="linf", eps=8 / 255)
    verdicts.is_robust                              # [N] bool
    jr.classwise_table(labels, verdicts)            # the accuracy of each class, with its interval
    jr.compare(labels, verdicts, other_verdicts)    # of two models on the same images

    print(jr.classwise_table(labels, verdicts, class_names))

    run = jr.fit(model, dataset, jr.Linf(8 / 255), objective="trades")
    run = jr.load_run("runs/cifar10")               # what `python -m jaxrobust.main` trained
    print(run.table("standard"))

Everything is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrobust.attacks.threats import L1, L2, Linf, Threat
    from jaxrobust.classwise.table import ClassTable, classwise_table
    from jaxrobust.comparison.compare import Comparison, compare
    from jaxrobust.data.dataset import Dataset
    from jaxrobust.evaluation.library import attack, predict
    from jaxrobust.evaluation.run import Run, load_run
    from jaxrobust.evaluation.verdicts import Verdicts
    from jaxrobust.training.fit import fit
    from jaxrobust.training.torch_files import export_torch, import_torch

__version__ = "0.1.0"

# The module of each public name.
_MODULES = {
    "ClassTable": "jaxrobust.classwise.table",
    "Comparison": "jaxrobust.comparison.compare",
    "Dataset": "jaxrobust.data.dataset",
    "L1": "jaxrobust.attacks.threats",
    "L2": "jaxrobust.attacks.threats",
    "Linf": "jaxrobust.attacks.threats",
    "Run": "jaxrobust.evaluation.run",
    "Threat": "jaxrobust.attacks.threats",
    "Verdicts": "jaxrobust.evaluation.verdicts",
    "attack": "jaxrobust.evaluation.library",
    "classwise_table": "jaxrobust.classwise.table",
    "compare": "jaxrobust.comparison.compare",
    "export_torch": "jaxrobust.training.torch_files",
    "fit": "jaxrobust.training.fit",
    "import_torch": "jaxrobust.training.torch_files",
    "load_run": "jaxrobust.evaluation.run",
    "predict": "jaxrobust.evaluation.library",
}

__all__ = [
    "L1",
    "L2",
    "ClassTable",
    "Comparison",
    "Dataset",
    "Linf",
    "Run",
    "Threat",
    "Verdicts",
    "attack",
    "classwise_table",
    "compare",
    "export_torch",
    "fit",
    "import_torch",
    "load_run",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxrobust' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
