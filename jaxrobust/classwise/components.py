"""Variance components: how much class, architecture, hyper-parameters, seed and chance explain of a class's robustness.

    accuracy, covariance = measured(is_robust, labels, num_classes)     # [R, N], whether each image is robust
    found = variance_components(accuracy, covariance, {"architecture": [...], "radius": [...], "seed": [...]})
    found.variance["class x architecture"], found.share["class"], found.explained_by_class_order

A run is a training with one level of each factor. The model for the accuracy of a class in a run is

    mean + class + sum over factors f of (f + class x f) + run + residual + sampling

All terms except the mean are random and independent, each with one variance:

    class         differences between classes that all runs have in common
    f             differences between the levels of f in the average over classes
    class x f     differences between the levels of f in the class profile: the order of the classes or their distances
    run           variation of a run's average beyond its factors: interactions of factors, and the seed if not a factor
    residual      the same for the class profile
    sampling      the draw of the test images; shared by runs on the same images, and known from their verdicts
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import nnls
from scipy.special import chdtri, stdtrit

from jaxrobust.classwise.counts import ratio
from jaxrobust.classwise.intervals import checked_confidence
from jaxrobust.classwise.permutation import label_indices

_CONFOUNDED = 1e-9  # relative size below which an eigenvalue is zero up to rounding
_ROUNDING = 1e-15  # variance of accuracies below which it is zero up to rounding
_BISECTIONS = 14  # of the ends of an interval in [0, 1]


@dataclasses.dataclass(frozen=True)
class VarianceComponents:
    """Variances of accuracies (fractions), by the names in the module's docstring."""

    variance: dict[str, float]  # variance of each component, in squared fractions, at least 0
    # standard error of the variance, before negative ones are cut off, by the jackknife over classes.
    error: dict[str, float]
    # share of each component in the sum of all components; shares add up to 1. nan if nothing varies.
    share: dict[str, float]
    # share_low, share_high: interval of each share by the same jackknife, within [0, 1].
    share_low: dict[str, float]
    share_high: dict[str, float]
    # class / (class + all class x f + residual): the share of the differences between classes that all runs have in
    # common. nan if the classes do not differ.
    explained_by_class_order: float
    # explained_low, explained_high: its interval, for new classes and images.
    explained_low: float
    explained_high: float
    classes: int  # their number


def measured(is_robust, labels, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of each class in each run, and the covariances of its errors that the draw of the images causes.

    Runs judged on the same images err together: an image that is hard for one is hard for all. The covariance of two
    runs is estimated from the images that both were judged on; without bias, and 0 for fewer than two of them.

    Args:
        is_robust: [R, N], whether each image is robust in each run; -1 where a run was not judged on it.
        labels: of the images, integers in [0, C), [N].
        num_classes: C.

    Returns:
        accuracy [R, C], nan for a class without images in a run; covariance [C, R, R], in squared fractions; nan on
        the diagonal for a class with fewer than two images in a run.
    """
    is_robust, labels = np.asarray(is_robust), np.asarray(labels)
    if is_robust.ndim != 2 or labels.shape != is_robust.shape[1:]:
        raise ValueError(f"is_robust {is_robust.shape} must be [R, N], with labels {labels.shape} one for each image")
    runs = len(is_robust)
    accuracy, covariance = np.empty((runs, num_classes)), np.empty((num_classes, runs, runs))
    for c in range(num_classes):
        of_class = is_robust[:, labels == c]
        judged, right = (of_class >= 0).astype(float), (of_class == 1).astype(float)
        images, common, sums = judged.sum(1), judged @ judged.T, right @ judged.T  # sums: of row, over both's images
        accuracy[:, c] = ratio(right.sum(1), images)
        products = right @ right.T - ratio(sums * sums.T, common)
        # The covariance of two images, times the share of common ones among the pairs of images.
        covariance[c] = ratio(common * ratio(products, common - 1), np.outer(images, images))
        covariance[c][(common < 2) & ~np.eye(runs, dtype=bool)] = 0.0
    return accuracy, covariance


def variance_components(
    accuracy, covariance, factors: Mapping[str, object], confidence: float = 0.95
) -> VarianceComponents:
    """Components of variance by the method of moments, for any choice of runs.

    The covariance of the class profiles of two runs is the variance class, plus class x f for each factor f whose level
    both share. Non-negative least squares over all pairs of runs gives class x f and residual from the differences
    between runs (MINQUE with the identity as the prior and class as fixed: Rao, 1971; similar to Henderson's method 3,
    1953). What they do not explain between class means is class. Pairs of averages give f and run in the same way. With
    all combinations of levels these are the estimators of the analysis of variance; except for cutting off negative
    values they are unbiased for any choice of runs.

    The sampling covariance is subtracted first, for each pair of runs: images that are hard for all runs would
    otherwise pass for classes that are.

    Intervals of shares are Student's with C - 1 degrees of freedom, by the jackknife over classes of the variances
    before negative ones are cut off. That of explained_by_class_order consists of the values theta for which class -
    theta (class + class x f + residual) may be 0. This is a quadratic form in the class profiles of the runs; its
    limits are combined from chi-square limits of its positive and of its negative part (MOVER: Zou, Huang and Zhang,
    2009; degrees by Satterthwaite, 1946). In simulations of three to ten classes on the same images, 95 % intervals
    held the truth in 95 to 100 %. They do *not* cover the draw of the runs: for a factor with three levels, f and
    class x f are known poorly, however narrow the interval.

    Args:
        accuracy: fractions [R, C]; classes that are nan in any run are left out.
        covariance: of the sampling errors, [C, R, R], see `measured`; or None, to leave them in the other components
            and report sampling as 0.
        factors: for each factor its level in each run, [R], of any type. Runs of equal levels are repetitions.
        confidence: strictly between 0 and 1.

    Raises:
        ValueError: shapes do not match, there are fewer than three classes or too few images, a factor has a single
            level or the name of another component, or the runs cannot separate the effects.
    """
    checked_confidence(confidence)
    accuracy, sampling = _checked_accuracy(accuracy, covariance)
    design = _Design(factors, len(accuracy))
    names = ["class", *factors, *(f"class x {name}" for name in factors), "run", "residual", "sampling"]
    if len(set(names)) < len(names):
        raise ValueError(f"factors {list(factors)} must not use names of other components: {names}")

    classes = accuracy.shape[1]
    found = _estimate(accuracy, sampling, design)
    left_out = np.stack(
        [_estimate(np.delete(accuracy, c, 1), np.delete(sampling, c, 0), design, cut=False) for c in range(classes)]
    )
    between = np.array([name == "class" or name.startswith("class x ") or name == "residual" for name in names])
    t = stdtrit(classes - 1, (1 + confidence) / 2)

    def shares(variances):
        return ratio(variances, variances.sum(-1, keepdims=True))

    def named(values):
        return dict(zip(names, np.asarray(values).tolist(), strict=True))

    half_width = t * _jackknife_error(shares(left_out))
    low, high = np.clip(shares(found) - half_width, 0, 1), np.clip(shares(found) + half_width, 0, 1)
    explained = float(ratio(found[0], found[between].sum()))
    explained_low, explained_high = _explained_interval(explained, accuracy, sampling, design, (1 - confidence) / 2)
    return VarianceComponents(
        variance=named(found),
        error=named(_jackknife_error(left_out)),
        share=named(shares(found)),
        share_low=named(low),
        share_high=named(high),
        explained_by_class_order=explained,
        explained_low=explained_low,
        explained_high=explained_high,
        classes=classes,
    )


class _Design:
    """The levels that pairs of runs share, and the least-squares problem. It does not depend on the accuracies."""

    def __init__(self, factors: Mapping[str, object], runs: int):
        shared = [_shared_levels(name, levels, runs) for name, levels in factors.items()]
        # [F + 1, R, R], 1 where two runs share the level of a factor; the last matrix is for the run itself.
        self.shared = np.stack([*shared, np.eye(runs)])
        # Without row and column means, as for differences between runs.
        self.centred = self.shared - self.shared.mean(1, keepdims=True) - self.shared.mean(2, keepdims=True)
        self.centred += self.shared.mean((1, 2), keepdims=True)
        products = np.einsum("irs,jrs->ij", self.centred, self.centred)
        size = np.sqrt(np.diag(products))
        values, vectors = np.linalg.eigh(products / size[:, None] / size)
        if values[0] < _CONFOUNDED:
            confounded = np.flatnonzero(np.abs(vectors[:, 0]) > 1e-3)
            raise ValueError(
                "these runs cannot separate the effects of "
                + ", ".join([*factors, "the single run"][i] for i in confounded)
                + "; leave out a factor or add runs"
            )
        self.root = cholesky(products)  # upper triangular

    def fit(self, covariance, cut: bool = True) -> np.ndarray:
        """Variances [F + 1], at least 0 if `cut`, whose `sum` is closest to the covariance [R, R] without its means."""
        products = np.einsum("irs,rs->i", self.centred, covariance)
        if not cut:
            return cho_solve((self.root, False), products)
        return nnls(self.root, solve_triangular(self.root, products, trans="T"))[0]

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """[R, R] each: of a covariance of profiles in class, and in class x f and residual together, if none is cut."""
        together = np.tensordot(cho_solve((self.root, False), np.ones(len(self.shared))), self.centred, 1)
        by_mean = cho_solve((self.root, False), self.shared.mean((1, 2)))
        of_class = 1 / self.shared[0].size - np.tensordot(by_mean, self.centred, 1)
        return of_class, together

    def sum(self, variances) -> np.ndarray:
        """Covariance of the runs [R, R] for given variances [F + 1]."""
        return np.tensordot(variances, self.shared, 1)


def _estimate(accuracy, sampling, design: _Design, cut: bool = True) -> np.ndarray:
    """The components, in the order: class, f ..., class x f ..., run, residual, sampling; `cut`: at least 0."""
    classes = accuracy.shape[1]
    average = accuracy.mean(1)
    profile = accuracy - average[:, None]
    of_images = sampling.mean(0)
    covariance = profile @ profile.T / (classes - 1) - of_images
    interactions = design.fit(covariance, cut)
    of_class = (covariance - design.sum(interactions)).mean()
    # In the average over C classes, the variance of their random terms is divided by C.
    known = (design.sum(interactions) + of_images) / classes
    centred = average - average.mean()  # `fit` would do this too, but with larger rounding errors
    averages = design.fit(np.outer(centred, centred) - known, cut)
    of_run = averages[-1], interactions[-1], np.diag(of_images).mean()
    found = np.array([of_class, *averages[:-1], *interactions[:-1], *of_run])
    return np.where((found if cut else np.abs(found)) > _ROUNDING, found, 0.0)


def _explained_interval(explained: float, accuracy, sampling, design: _Design, tail: float) -> tuple[float, float]:
    """Limits of explained_by_class_order; see `variance_components`."""
    if np.isnan(explained):
        return explained, explained
    degrees = accuracy.shape[1] - 1
    profile = accuracy - accuracy.mean(1, keepdims=True)
    products, of_images = profile @ profile.T / degrees, sampling.mean(0)
    of_class, of_rest = design.weights()

    def part(form):
        """Of a quadratic form without negative eigenvalues: its value, and the distances of its chi-square limits."""
        of_runs = form @ products
        value, squares = np.trace(of_runs), np.trace(of_runs @ of_runs)
        if not squares > 0:
            return 0.0, 0.0, 0.0
        freedom = degrees * max(value**2 / squares, 1.0)
        return (
            value,
            value - value * freedom / chdtri(freedom, tail),
            value * freedom / chdtri(freedom, 1 - tail) - value,
        )

    def limits(theta):
        """Estimate of class - theta (class + rest), and the distances of its limits."""
        form = (1 - theta) * of_class - theta * of_rest
        values, vectors = np.linalg.eigh(form)
        parts = ((vectors * np.maximum(of, 0.0)) @ vectors.T for of in (values, -values))
        (above, above_low, above_high), (below, below_low, below_high) = map(part, parts)
        middle = above - below - (form * of_images).sum()
        return middle, math.hypot(above_low, below_high), math.hypot(above_high, below_low)

    whole, least = limits(0.0)[0] - limits(1.0)[0], limits(0.0)[0]
    start = min(max(least / whole, 0.0), 1.0) if whole > 0 else float(least > 0)
    beyond = limits(start)[0]  # not 0 only if an estimate is negative: then all is taken as if it were 0

    def may_be_true(theta):
        middle, below, above = limits(theta)
        return -above <= middle - beyond <= below

    def end(outside):
        if may_be_true(outside):
            return outside
        inside = start
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if may_be_true(middle) else (inside, middle)
        return inside

    return min(end(0.0), explained), max(end(1.0), explained)


def _checked_accuracy(accuracy, covariance) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies [R, C] and the covariances of their sampling errors [C, R, R], for the classes that all runs have."""
    accuracy = np.asarray(accuracy, float)
    if accuracy.ndim != 2 or len(accuracy) < 2:
        raise ValueError(f"accuracy {accuracy.shape} must be [R, C] with at least two runs")
    runs, classes = accuracy.shape
    there = ~np.isnan(accuracy).any(0)
    if there.sum() < 3:
        raise ValueError(f"{there.sum()} classes with examples in all runs; the jackknife over classes needs three")
    accuracy = accuracy[:, there]
    if (accuracy < 0).any() or (accuracy > 1).any():
        raise ValueError(f"accuracy must be a fraction; found {accuracy.min()} to {accuracy.max()}")
    covariance = np.zeros((classes, runs, runs)) if covariance is None else np.asarray(covariance, float)
    if covariance.shape != (classes, runs, runs):
        raise ValueError(f"covariance {covariance.shape} must be [C, R, R] as accuracy {(runs, classes)} is [R, C]")
    if np.isnan(covariance[there]).any():
        raise ValueError("a class has a single image in a run; its sampling variance needs two")
    return accuracy, covariance[there]


def _shared_levels(name: str, levels, runs: int) -> np.ndarray:
    """[R, R]: 1 where two runs have the same level."""
    level_R = label_indices(f"factor {name!r}", levels, runs)
    if not level_R.any():
        raise ValueError(f"factor {name!r} has the level {next(iter(levels))!r} in all runs; leave it out")
    return (level_R[:, None] == level_R).astype(float)


def _jackknife_error(left_out) -> np.ndarray:
    """Standard errors from figures computed with one class left out; the first axis is the class."""
    number = len(left_out)
    return np.sqrt((number - 1) * left_out.var(0))
