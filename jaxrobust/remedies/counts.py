"""What stands for the number of examples of a class.

Techniques for long-tailed data ask how rare a class is. On balanced data none is, and all of them do nothing. Carried
over to adversarial training they ask how hard it is instead: a count in place of the true one, small where a class is
hard.

    true              the number of training examples
    robust_accuracy   proportional to the share of a class's images that withstand the attack of the training
    predicted         proportional to the number of adversarial images that are taken for the class (REAT)
    margin            proportional to (1 + m) / 2, m the mean margin between the probability of the true class and the
                      largest other one, on adversarial images

The last three are averaged over epochs. Counts in place of the true ones add up to the same sum, the size of the
training set, so that a rule means the same by either.
"""

import jax.numpy as jnp


def _share(of):
    """An ease [C] as the share of images for which something holds, by the statistics' name for it."""
    return lambda statistics: statistics[of] / jnp.maximum(statistics["count"], 1)


# The statistics that each needs beside statistics.ALWAYS, and from statistics to the ease [C] of each class.
_EASE = {
    "robust_accuracy": ((), _share("correct")),
    "predicted": (("confusion",), lambda statistics: statistics["confusion"].sum(0).astype(jnp.float32)),
    "margin": (("margin",), lambda statistics: (1.0 + _share("margin")(statistics)) / 2),
}
KINDS = ("true", *_EASE)
# No class counts less than this share of the one that counts most: a class of which nothing withstands would have no
# logarithm and no inverse.
SMALLEST_SHARE = 0.01


def statistics(kind: str) -> tuple[str, ...]:
    """The statistics that the kind needs beside statistics.ALWAYS."""
    return _EASE[kind][0] if kind in _EASE else ()


def start(class_counts):
    """The counts before anything is known of the classes' difficulty: the true ones, as floats [C]."""
    return jnp.asarray(class_counts, jnp.float32)


def observe(kind: str, counts, statistics, decay: float):
    """The counts [C] after an epoch.

    Args:
        kind: one of `KINDS`.
        counts: [C], those before.
        statistics: see statistics.py. A class that the epoch had no image of keeps its count.
        decay: the weight of `counts` in the average, in [0, 1).
    """
    if kind == "true":
        return counts
    seen = statistics["count"] > 0
    ease = _EASE[kind][1](statistics)
    total, known = counts.sum(), jnp.where(seen, ease, 0.0).sum()
    # The seen classes share what they had before by their ease, or evenly where nothing of any of them withstands.
    pool = jnp.where(seen, counts, 0.0).sum()
    share = jnp.where(known > 0, ease / jnp.where(known > 0, known, 1.0), 1.0 / jnp.maximum(seen.sum(), 1))
    counts = jnp.where(seen, decay * counts + (1.0 - decay) * share * pool, counts)
    counts = jnp.maximum(counts, SMALLEST_SHARE * counts.max())
    return counts * (total / counts.sum())
