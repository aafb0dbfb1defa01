"""What a comparison of two simulated runs finds."""

import numpy as np

from jaxrobust.comparison.compare import compare

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FACTS = {"data": "tfds:cifar10", "model": "lenet5"}


def figures_of(robust_a, robust_b, labels, names, attacks=("pgd20",), **changes):
    of = compare(labels, robust_a, robust_b, names).to_json()
    run = {"step": 1000, "epoch": 10, "weights": "averaged", "checkpoint": "best", "facts": FACTS}
    return {
        "a": run | {"workdir": "runs/plain", "name": "plain"},
        "b": run | {"workdir": "runs/remedied", "name": "remedied", "facts": FACTS | {"remedy": "faal"}},
        "split": "test",
        "examples": len(labels),
        "confidence": 0.95,
        "level": 0.05,
        "headline": attacks[0],
        "attacks": dict.fromkeys(attacks, of),
        "notes": [],
    } | changes


def simulated(num_classes, per_class=100, gain=(), names=None, **changes):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), per_class)
    draw = rng.random(labels.size)
    accuracy_b = np.full(num_classes, 0.5)
    accuracy_b[: len(gain)] += gain
    names = names or (NAMES if num_classes == 10 else [f"class {i}" for i in range(num_classes)])
    return figures_of(draw < 0.5, draw < accuracy_b[labels], labels, names, **changes)
