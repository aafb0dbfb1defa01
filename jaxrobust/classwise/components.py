"""What explains the robustness of a class: the class, the architecture, a hyper-parameter, the seed, or chance.

    found = variance_components(accuracy, count, {"architecture": [...], "radius": [...], "seed": [...]})
    found.variance["class x architecture"], found.share["class"], found.explained_by_class_order

Run r is a training with one level of each factor, and class c has in it the accuracy

    mean + class + sum over factors f of (f + class x f) + run + residual + sampling

in which all terms but the mean are random and independent, each with one variance:

    class         differences between classes that all runs have in common
    f             differences between the averages over classes that go with the levels of f
    class x f     what the levels of f change of the class profile: in what order the classes are, or how far apart
    run           the average of a run beyond its factors: interactions of factors, and the seed unless that is a factor
    residual      the same for the profile
    sampling      the draw of test images, binomial, known from the counts
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls
from scipy.special import stdtrit

from jaxrobust.classwise.intervals import checked_confidence
from jaxrobust.classwise.permutation import label_indices

_CONFOUNDED = 1e-9  # relative size of an eigenvalue that is zero but for rounding
_ROUNDING = 1e-24  # variance of accuracies that is zero but for rounding


@dataclasses.dataclass(frozen=True)
class VarianceComponents:
    """Variances of accuracies (fractions), by the names in the module's docstring.

    Attributes:
        variance: of each component, squared fractions, at least 0.
        error: its standard error by the jackknife over classes.
        share: of the sum of all components; they add up to 1. nan if nothing varies.
        share_low, share_high: interval of each share by the same jackknife, within [0, 1].
        explained_by_class_order: class over class + all class x f + residual: how much of the differences between
            classes all runs have in common. nan if the classes do not differ.
        explained_low, explained_high: its interval by the same jackknife.
        runs, classes: how many.
    """

    variance: dict[str, float]
    error: dict[str, float]
    share: dict[str, float]
    share_low: dict[str, float]
    share_high: dict[str, float]
    explained_by_class_order: float
    explained_low: float
    explained_high: float
    runs: int
    classes: int


def variance_components(accuracy, count, factors: Mapping[str, object], confidence: float = 0.95) -> VarianceComponents:
    """Components of variance by the method of moments, for any choice of runs.

    The accuracies are split into run averages and class profiles, what is left of a run less its average. The
    covariance of the profiles of two runs is class plus the class x f of those factors of which they share the level;
    so differences between runs are free of class, and least squares over all pairs of runs, none negative, gives class
    x f and residual (MINQUE with the identity as the prior and class as fixed: Rao, 1971; Henderson's method 3 does
    likewise, 1953). What they leave of the variance between class means is class. Pairs of averages give f and run in
    the same way. With all combinations of levels these are the estimators of the analysis of variance, where those are
    not negative. They are unbiased for any choice of runs, but for the bias of cutting off what is negative.

    Sampling variance is taken off residual and class, p (1 - p) / (n - 1) for each class and run, as if each run had
    images of its own. Runs judged on the same images share a part of their errors. That part is then found in class,
    and taken off residual although it is not in it: residual may be too small, and class too large, by at most
    sampling. Without counts residual is too large instead, so the two results hold the true one between them.

    The jackknife leaves out one class at a time; intervals are Student's with C - 1 degrees. They say how the figures
    depend on which classes a data set has, the runs given. They do *not* cover the draw of the runs: of a factor with
    three levels neither f nor class x f is well known, however narrow the interval.

    Args:
        accuracy: fractions [R, C]; classes that are nan in any run take no part.
        count: test images [R, C], or None to leave sampling in the residual; then sampling is 0.
        factors: of each factor its level in each run, [R], of any type. Runs with the same levels of all factors are
            repetitions.
        confidence: strictly between 0 and 1.

    Raises:
        ValueError: shapes do not fit, fewer than three classes, a factor with one level, a name in use, factors that
            these runs cannot tell apart (or from the run itself), too few images, or a confidence outside (0, 1).
    """
    checked_confidence(confidence)
    accuracy, sampling = _checked_accuracy(accuracy, count)
    design = _Design(factors, len(accuracy))
    names = ["class", *factors, *(f"class x {name}" for name in factors), "run", "residual", "sampling"]
    if len(set(names)) < len(names):
        raise ValueError(f"factors {list(factors)} must not use names of other components: {names}")

    classes = accuracy.shape[1]
    found = _estimate(accuracy, sampling, design)
    left_out = np.stack(
        [_estimate(np.delete(accuracy, c, 1), np.delete(sampling, c, 1), design) for c in range(classes)]
    )
    between = np.array([name == "class" or name.startswith("class x ") or name == "residual" for name in names])
    t = stdtrit(classes - 1, (1 + confidence) / 2)

    def shares(variances):
        return _ratio(variances, variances.sum(-1, keepdims=True))

    def explained(variances):
        return _ratio(variances[..., 0], variances[..., between].sum(-1))

    def interval(figure):
        value, half_width = figure(found), t * _jackknife_error(figure(left_out))
        return np.clip(value - half_width, 0, 1), np.clip(value + half_width, 0, 1)

    def named(values):
        return dict(zip(names, np.asarray(values).tolist(), strict=True))

    low, high = interval(shares)
    explained_low, explained_high = interval(explained)
    return VarianceComponents(
        variance=named(found),
        error=named(_jackknife_error(left_out)),
        share=named(shares(found)),
        share_low=named(low),
        share_high=named(high),
        explained_by_class_order=float(explained(found)),
        explained_low=float(explained_low),
        explained_high=float(explained_high),
        runs=len(accuracy),
        classes=classes,
    )


class _Design:
    """Which runs share which levels, and the least squares that follow; the same whatever was measured.

    Attributes:
        shared: [F + 1, R, R], 1 where two runs share the level of a factor; the last is the run itself.
        centred: the same with row and column means removed, as differences between runs have them.
        root: upper triangular [F + 1, F + 1]: root' root are the inner products of `centred`.
    """

    def __init__(self, factors: Mapping[str, object], runs: int):
        shared = [_shared_levels(name, levels, runs) for name, levels in factors.items()]
        self.shared = np.stack([*shared, np.eye(runs)])
        self.centred = self.shared - self.shared.mean(1, keepdims=True) - self.shared.mean(2, keepdims=True)
        self.centred += self.shared.mean((1, 2), keepdims=True)
        products = np.einsum("irs,jrs->ij", self.centred, self.centred)
        size = np.sqrt(np.diag(products))
        values, vectors = np.linalg.eigh(products / size[:, None] / size)
        if values[0] < _CONFOUNDED:
            confounded = np.flatnonzero(np.abs(vectors[:, 0]) > 1e-3)
            raise ValueError(
                "these runs cannot tell apart the effects of "
                + ", ".join([*factors, "the single run"][i] for i in confounded)
                + "; leave out a factor or add runs"
            )
        self.root = cholesky(products)

    def fit(self, covariance) -> np.ndarray:
        """Variances [F + 1] whose sum over what two runs share is closest to their covariance [R, R], but for means."""
        products = np.einsum("irs,rs->i", self.centred, covariance)
        return nnls(self.root, solve_triangular(self.root, products, trans="T"))[0]

    def sum(self, variances) -> np.ndarray:
        """Covariance of runs [R, R] that follows from variances [F + 1]."""
        return np.tensordot(variances, self.shared, 1)


def _estimate(accuracy, sampling, design: _Design) -> np.ndarray:
    """class, f ..., class x f ..., run, residual, sampling."""
    classes = accuracy.shape[1]
    average = accuracy.mean(1)
    profile = accuracy - average[:, None]
    covariance = profile @ profile.T / (classes - 1) - np.diag(sampling.mean(1))
    interactions = design.fit(covariance)
    of_class = max(0.0, (covariance - design.sum(interactions)).mean())
    # An average over classes has of their random terms one part in C.
    known = (design.sum(interactions) + np.diag(sampling.mean(1))) / classes
    centred = average - average.mean()  # as `fit` would, but without the rounding of large numbers
    averages = design.fit(np.outer(centred, centred) - known)
    found = np.array([of_class, *averages[:-1], *interactions[:-1], averages[-1], interactions[-1], sampling.mean()])
    return np.where(found > _ROUNDING, found, 0.0)


def _checked_accuracy(accuracy, count) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies and their sampling variances, [R, C] each, of the classes that all runs have."""
    accuracy = np.asarray(accuracy, float)
    if accuracy.ndim != 2 or len(accuracy) < 2:
        raise ValueError(f"accuracy {accuracy.shape} must be [R, C] with at least two runs")
    there = ~np.isnan(accuracy).any(0)
    if there.sum() < 3:
        raise ValueError(f"{there.sum()} classes with examples in all runs; the jackknife over classes needs three")
    accuracy = accuracy[:, there]
    if (accuracy < 0).any() or (accuracy > 1).any():
        raise ValueError(f"accuracy must be a fraction; found {accuracy.min()} to {accuracy.max()}")
    if count is None:
        return accuracy, np.zeros(accuracy.shape)
    count = np.asarray(count)
    if count.shape != (len(accuracy), there.size):
        raise ValueError(f"count {count.shape} must be [R, C] as accuracy {(len(accuracy), there.size)}")
    count = count[:, there]
    if count.min() < 2:
        raise ValueError(f"a class has {count.min():g} images in a run; their sampling variance needs two")
    return accuracy, accuracy * (1 - accuracy) / (count - 1)


def _shared_levels(name: str, levels, runs: int) -> np.ndarray:
    """[R, R]: 1 where two runs have the same level."""
    level_R = label_indices(f"factor {name!r}", levels, runs)
    if not level_R.any():
        raise ValueError(f"factor {name!r} has the level {next(iter(levels))!r} in all runs; leave it out")
    return (level_R[:, None] == level_R).astype(float)


def _jackknife_error(left_out) -> np.ndarray:
    """Standard errors from the figures with each class left out, over the first axis."""
    number = len(left_out)
    return np.sqrt((number - 1) * left_out.var(0))


def _ratio(part, whole) -> np.ndarray:
    whole = np.broadcast_to(whole, np.shape(part))
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
