"""Adversarial robustness of image classifiers in JAX, class by class.

    import jaxrobust as jr

    verdicts = jr.attack(logits_fn, images, labels, "standard", norm="linf", eps=8 / 255)
    verdicts.is_robust                              # [N] bool
    jr.classwise_table(labels, verdicts)            # the accuracy of each class, with its interval
    jr.compare(labels, verdicts, other_verdicts)    # of two models on the same images

    run = jr.load_run("runs/cifar10")               # what `python -m jaxrobust.main` trained
    verdicts = run.attack("standard")

Everything is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrobust.attacks.threats import L1, L2, Linf, Threat
    from jaxrobust.classwise.table import classwise_table
    from jaxrobust.comparison.compare import compare
    from jaxrobust.data.dataset import DataSet as Dataset
    from jaxrobust.evaluation.library import attack, predict
    from jaxrobust.evaluation.run import Run, load_run
    from jaxrobust.evaluation.verdicts import Verdicts
    from jaxrobust.training.torch_files import export_torch, import_torch

__version__ = "0.1.0"

__all__ = [
    "L1",
    "L2",
    "Dataset",
    "Linf",
    "Run",
    "Threat",
    "Verdicts",
    "attack",
    "classwise_table",
    "compare",
    "export_torch",
    "import_torch",
    "load_run",
    "predict",
]

# Where each of them is.
_PLACES = {
    "Dataset": "jaxrobust.data.dataset:DataSet",
    "L1": "jaxrobust.attacks.threats:L1",
    "L2": "jaxrobust.attacks.threats:L2",
    "Linf": "jaxrobust.attacks.threats:Linf",
    "Run": "jaxrobust.evaluation.run:Run",
    "Threat": "jaxrobust.attacks.threats:Threat",
    "Verdicts": "jaxrobust.evaluation.verdicts:Verdicts",
    "attack": "jaxrobust.evaluation.library:attack",
    "classwise_table": "jaxrobust.classwise.table:classwise_table",
    "compare": "jaxrobust.comparison.compare:compare",
    "export_torch": "jaxrobust.training.torch_files:export_torch",
    "import_torch": "jaxrobust.training.torch_files:import_torch",
    "load_run": "jaxrobust.evaluation.run:load_run",
    "predict": "jaxrobust.evaluation.library:predict",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'jaxrobust' has no attribute {name!r}")
    module, attribute = _PLACES[name].split(":")
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
