"""The class counts that long-tail techniques use: true numbers of examples, or replacements that measure difficulty.

On balanced data the true counts have no effect. For adversarial training a count that is small if a class is hard can
replace them:

    true              the number of training examples
    robust_accuracy   proportional to the share of a class's images that withstand the attack of the training
    predicted         proportional to the number of adversarial images that are predicted as the class (REAT)
    margin            proportional to (1 + m) / 2, with m the mean difference between the probability of the true class
                      and the largest other probability, on adversarial images

The last three are averaged over epochs and have the sum of the true counts, so that settings mean the same for both.
"""

import jax.numpy as jnp


def _share(of):
    """The ease [C] of each class as the mean of the statistic `of` over its images."""
    return lambda statistics: statistics[of] / jnp.maximum(statistics["count"], 1)


# kind -> (statistics that it needs in addition to statistics.ALWAYS, function: statistics -> ease [C] of each class)
_EASE = {
    "robust_accuracy": ((), _share("correct")),
    "predicted": (("confusion",), lambda statistics: statistics["confusion"].sum(0).astype(jnp.float32)),
    "margin": (("margin",), lambda statistics: (1.0 + _share("margin")(statistics)) / 2),
}
KINDS = ("true", *_EASE)
# Smallest count, as a share of the largest count. A class with robust accuracy 0 would otherwise have a count of 0, so
# its logarithm and its inverse would be infinite.
SMALLEST_SHARE = 0.01


def statistics(kind: str) -> tuple[str, ...]:
    """The names of the statistics that the kind needs in addition to statistics.ALWAYS."""
    return _EASE[kind][0] if kind in _EASE else ()


def init(class_counts):
    """The counts before the difficulty of the classes is known: the true counts, as floats [C]."""
    return jnp.asarray(class_counts, jnp.float32)


def update(kind: str, counts, statistics, decay: float):
    """The counts [C] after an epoch.

    Args:
        kind: one of `KINDS`.
        counts: [C], the counts before the epoch.
        statistics: see training/class_statistics.py. A class without images in the epoch keeps its count.
        decay: the weight of `counts` in the average, in [0, 1).
    """
    if kind == "true":
        return counts
    seen = statistics["count"] > 0
    ease = _EASE[kind][1](statistics)
    total, known = counts.sum(), jnp.where(seen, ease, 0.0).sum()
    # The sum of the previous counts of the seen classes is divided among them by their ease; evenly if all eases are 0.
    pool = jnp.where(seen, counts, 0.0).sum()
    share = jnp.where(known > 0, ease / jnp.where(known > 0, known, 1.0), 1.0 / jnp.maximum(seen.sum(), 1))
    counts = jnp.where(seen, decay * counts + (1.0 - decay) * share * pool, counts)
    counts = jnp.maximum(counts, SMALLEST_SHARE * counts.max())
    return counts * (total / counts.sum())
