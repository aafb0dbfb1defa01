"""Coverage, error rate and power of what a study and a score report, by simulation, before and after their correction.

    PYTHONPATH=. python tests/simulations/study_statistics.py [--times 1000]

prints the whole table. Verdicts are drawn as those of runs on the same images: an image is robust in a run if its
difficulty, of which a share is common to all runs, is below a limit that gives the class its accuracy. "Before" are the
formulas that the project had, written out here; "after" are its functions.
"""

import argparse
import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from jaxrobust import classwise
from jaxrobust.classwise import agreement, components, spread
from jaxrobust.explanations import ranking

SHARED = 0.85  # of the latent difficulty of an image


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    right: str
    before: float
    after: float

    def __str__(self):
        return f"| {self.what} | {self.right} | {self.before:.3g} | {self.after:.3g} |"


def verdicts(accuracy, images: int, rng, shared: float = SHARED):
    """Whether each image is robust in each run, [R, C * images], and the labels.

    Args:
        accuracy: true accuracies [R, C].
        shared: share of the variance of the difficulty that the runs have in common.
    """
    runs, classes = accuracy.shape
    common = rng.normal(size=(1, classes, images))
    own = rng.normal(size=(runs, classes, images))
    difficulty = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    limit = ndtri(np.clip(accuracy, 1e-9, 1 - 1e-9))[:, :, None]
    return (difficulty < limit).reshape(runs, -1), np.repeat(np.arange(classes), images)


def counts(is_robust, labels, classes: int):
    """Robust images [R, C]."""
    return np.stack([np.bincount(labels[of], minlength=classes) for of in is_robust])


# Before.


def w_before(accuracy, rng, draws: int):
    """Kendall's W of the settings [G, C] ranked on the same images, and p by permuting the classes in each setting."""
    ranks = rankdata(accuracy.round(12), axis=1) - (accuracy.shape[1] + 1) / 2
    total = np.square(ranks.sum(0)).sum()
    permuted = sum(rng.permuted(np.broadcast_to(of, (draws, of.size)), axis=1) for of in ranks)
    reached = (np.square(permuted).sum(1) >= total * (1 - 1e-9)).sum()
    return total / len(ranks) / np.square(ranks).sum(), (reached + 1) / (draws + 1)


def balanced_before(correct, count):
    """The interval of Zou, Huang and Zhang (2009)."""
    low, high = classwise.wilson_interval(correct, count)
    accuracy = correct / count
    below, above = (np.linalg.norm(limit - accuracy) / accuracy.size for limit in (low, high))
    return accuracy.mean() - below, accuracy.mean() + above


def probability_before(correct, count, rng, resamples: int = 2000):
    """The share of bootstrap draws in which each class is the lowest."""
    drawn = rng.binomial(count, correct / count, (resamples, correct.size)) / count
    lowest = drawn == drawn.min(1, keepdims=True)
    return (lowest / lowest.sum(1, keepdims=True)).mean(0)


def held_out_before(probe, robustness):
    """R^2 with a setting left out and no class."""
    y = robustness - robustness.mean(1, keepdims=True)
    x = probe - probe.mean(1, keepdims=True)
    x = x / x.std(1, keepdims=True)
    products, squares = (x * y).sum(1, keepdims=True), np.square(x).sum(1, keepdims=True)
    slope = (products.sum() - products) / (squares.sum() - squares)
    return (1 - np.square(y - slope * x).sum(1) / np.square(y).sum(1)).mean()


# What is compared.


def of_components(times: int, rng) -> Iterator[Row]:
    """Of 12 runs, 100 images of each of ten classes: what all runs share of the differences between classes."""
    runs, classes, images = 12, 10, 100
    factors = {"setting": np.arange(runs) // 3}
    for name, shared, of_class, of_setting in (
        ("equal classes, same images", SHARED, 0.0, 0.05),
        ("equal classes, own images", 0.0, 0.0, 0.05),
        ("classes differ by 5 points, same images", SHARED, 0.05, 0.05),
        ("classes differ by 15 points, same images", SHARED, 0.15, 0.05),
    ):
        found = []
        for _ in range(times):
            profile = of_class * rng.normal(size=classes)
            profile = profile + of_setting * rng.normal(size=(4, classes))[factors["setting"]]
            is_robust, labels = verdicts(0.5 + profile, images, rng, shared)
            accuracy, covariance = components.measured(is_robust, labels, classes)
            own = covariance * np.eye(runs)
            found.append([components.variance_components(accuracy, of, factors) for of in (own, covariance)])
        truth = of_class**2 / (of_class**2 + of_setting**2)
        mean = [np.nanmean([of[i].explained_by_class_order for of in found]) for i in (0, 1)]
        covered = [
            np.nanmean([of[i].explained_low <= truth + 1e-12 and truth <= of[i].explained_high for of in found])
            for i in (0, 1)
        ]
        yield Row(f"explained by class order, {name}: mean", f"{truth:.2f}", *mean)
        yield Row("the same: coverage of its interval", "0.95", *covered)
        of_variance = [np.mean([of[i].variance["class"] for of in found]) for i in (0, 1)]
        yield Row("the same: mean variance of class", f"{of_class**2:.4f}", *of_variance)


def of_concordance(times: int, rng) -> Iterator[Row]:
    """Of 7 settings with 3 seeds each."""
    settings, seeds, classes = 7, 3, 10
    setting_R = np.repeat(np.arange(settings), seeds)

    def accuracies(profile, of_setting, of_seed):
        profile = profile + of_setting * rng.normal(size=(settings, classes))[setting_R]
        return np.clip(0.5 + profile + of_seed * rng.normal(size=(setting_R.size, classes)), 0.01, 0.99)

    def means(is_robust, labels):
        return counts(is_robust, labels, classes).reshape(-1, seeds, classes).mean(1)

    def both(images, *of, draws=199):
        is_robust, labels = verdicts(accuracies(*of), images, rng)
        found = agreement.concordance(is_robust, labels, setting_R, rng=rng, draws=draws)
        return w_before(means(is_robust, labels), rng, draws), found

    def w_on_own_images(images, profile, of_setting):
        truth = accuracies(profile, of_setting, 0.02).reshape(settings, seeds, classes)
        return w_before(np.concatenate([means(*verdicts(of, images, rng)) for of in truth]), rng, 1)[0]

    for images in (50, 100, 200, 1000):
        studies = range(times if images < 1000 else max(2, times // 4))
        found = [both(images, np.zeros(classes), 0.0, 0.0) for _ in studies]
        mean = np.mean([w for (w, _), _ in found]), np.mean([of.w for _, of in found])
        yield Row(f"W of equal classes, {images} images: mean", f"{1 / settings:.2f}", *mean)
        correlation = np.mean([(settings * w - 1) / (settings - 1) for (w, _), _ in found])
        yield Row("the same: mean correlation", "0", correlation, np.mean([of.mean_correlation for _, of in found]))
        rejected = np.mean([p < 0.05 for (_, p), _ in found]), np.mean([of.p_value < 0.05 for _, of in found])
        yield Row("the same: p < 0.05", "0.05", *rejected)
        beyond = np.mean([of.low > 1 / settings for _, of in found])
        yield Row("the same: interval above 1 / settings", "0.025", np.nan, beyond)
    for name, of_class, of_setting in (("unrelated", 0.0, 0.1), ("in part alike", 0.07, 0.07), ("all alike", 0.1, 0.0)):
        found, truth = [], []
        for _ in range(times):
            profile = of_class * rng.normal(size=classes)
            found.append(both(100, profile, of_setting, 0.02))
            truth.append(np.mean([w_on_own_images(100, profile, of_setting) for _ in range(30)]))
        mean = np.mean([(w, c.w) for (w, _), c in found], axis=0)
        yield Row(f"W of orders that are {name}, 100 images: mean", f"{np.mean(truth):.2f}", *mean)
        covered = np.mean([c.low <= w <= c.high for w, (_, c) in zip(truth, found, strict=True)])
        yield Row("the same: coverage of its interval", "0.95", np.nan, covered)
        rejected = np.mean([p < 0.05 for (_, p), _ in found]), np.mean([c.p_value < 0.05 for _, c in found])
        yield Row("the same: p < 0.05", "power" if of_class else "0.05", *rejected)
        beyond = np.mean([c.low > 1 / settings for _, c in found])
        yield Row("the same: interval above 1 / settings", "power" if of_class else "0.025", np.nan, beyond)


def of_few_settings(times: int, rng) -> Iterator[Row]:
    """One class far below nine equal ones in three settings; two settings of unrelated orders."""
    low = np.full((3, 10), 0.5) - 0.2 * (np.arange(10) == 0)
    found, truth = [], []
    for _ in range(times):
        found.append(agreement.concordance(*verdicts(low, 100, rng), "abc", rng=rng, draws=1).mean_correlation)
        own = counts(*verdicts(low, 100, rng, 0.0), 10)
        truth.append(agreement.rank_correlation(own[0], own[1]))
    yield Row("correlation where one class lies 20 points below: mean", f"{np.mean(truth):.2f}", np.nan, np.mean(found))
    p_values = [
        agreement.concordance(*verdicts(rng.uniform(0.3, 0.7, (2, 10)), 100, rng), "ab", rng=rng, draws=99).p_value
        for _ in range(times)
    ]
    yield Row("two settings of unrelated orders: p < 0.05", "0.05", np.nan, np.mean(np.array(p_values) < 0.05))


def of_balanced(times: int, rng) -> Iterator[Row]:
    """Coverage of the interval of balanced accuracy."""
    for classes, images, accuracy in (
        (10, 50, 0.97), (10, 50, 0.99), (1000, 50, 0.03), (10, 50, 0.5), (10, 1000, 0.9), (100, 5, 0.2)
    ):  # fmt: skip
        count, covered = np.full(classes, images), []
        for correct in rng.binomial(images, accuracy, (times if classes < 1000 else times // 2, classes)):
            ends = balanced_before(correct, count), classwise.balanced_interval(correct, count)
            covered.append([low - 1e-12 <= accuracy <= high + 1e-12 for low, high in ends])
        name = f"balanced accuracy, {classes} classes of {images} at {accuracy:g}: coverage"
        yield Row(name, "0.95", *np.mean(covered, axis=0))


def of_spread(times: int, rng) -> Iterator[Row]:
    """Bias, coverage and power of the spread of the class accuracies."""
    shapes = {
        "equal classes at 60 %": np.full(10, 0.6),
        "normal, SD 7 points": 0.5 + 0.07 * ndtri((np.arange(10) + 0.5) / 10),
        "even from 20 to 80 %": np.linspace(0.2, 0.8, 10),
        "one of ten lower by 30 points": np.array([0.3] + [0.6] * 9),
    }
    for images in (50, 200):
        for name, truth in shapes.items():
            count, found = np.full(truth.size, images), []
            for correct in rng.binomial(images, truth, (times, truth.size)):
                found.append((classwise.Score(correct, count), spread.corrected(correct, count)))
            true = classwise.Score(np.round(truth * 10**6).astype(int), np.full(truth.size, 10**6)).metrics
            for figure in ("gap", "std", "nsd", "worst_class_accuracy"):
                mean = np.mean([s.metrics[figure] for s, _ in found]), np.mean([c[figure].value for _, c in found])
                yield Row(f"{figure}, {name}, {images} images: mean", f"{true[figure]:.3f}", *mean)
                covered = np.mean([c[figure].low - 1e-6 <= true[figure] <= c[figure].high + 1e-6 for _, c in found])
                yield Row("the same: coverage of its interval", "0.95", np.nan, covered)
            rejected = np.mean([classwise.spread.equality_test(s.correct, s.count).p_value < 0.05 for s, _ in found])
            yield Row("the same: equality rejected", "0.05" if np.ptp(truth) == 0 else "power", np.nan, rejected)
    count, shape = np.array([10, 20, 30, 40, 60, 80, 100, 200, 300, 500]), np.linspace(-1.5, 1.5, 10)
    for deviation in (0.0, 0.1):
        covered = []
        for _ in range(times):
            truth = 0.5 + deviation * rng.permutation(shape)
            of = spread.corrected(rng.binomial(count, truth), count)["std"]
            covered.append(of.low - 1e-6 <= truth.std() <= of.high + 1e-6)
        name = f"std of classes of 10 to 500 images, range {300 * deviation:g} points: coverage"
        yield Row(name, "0.95", np.nan, np.mean(covered))
    few = np.mean(
        [spread.equality_test(c, np.full(10, 20)).p_value < 0.05 for c in rng.binomial(20, 0.03, (times, 10))]
    )
    yield Row("equality of equal classes at 3 %, 20 images, rejected", "0.05", np.nan, few)


def of_probability(times: int, rng) -> Iterator[Row]:
    """How often the class with the highest probability to be the worst is the worst, beside what is said of it."""
    classes, images = 10, 50
    for of_class in (0.0, 0.03, 0.07, 0.15):
        said, right, high = [], [], []
        for _ in range(times):
            truth = np.clip(0.6 + of_class * rng.normal(size=classes), 0, 1)
            correct, count = rng.binomial(images, truth), np.full(classes, images)
            of = probability_before(correct, count, rng), classwise.probability_worst(correct, count, draws=2000)
            said.append([p.max() for p in of])
            if of_class:
                right.append([p.argmax() == truth.argmin() for p in of])
            else:
                right.append([1 / classes] * 2)
            high.append([of[i].max() > 0.7 for i in (0, 1)])
        name = f"probability to be the worst, class SD of {100 * of_class:g} points"
        yield Row(f"{name}: mean of the highest", "as next", *np.mean(said, axis=0))
        yield Row("the same: how often it is the worst", "", *np.mean(right, axis=0))
        said, right, high = map(np.array, (said, right, high))
        sure = [right[high[:, i], i].mean() if high[:, i].any() else np.nan for i in (0, 1)]
        yield Row("the same, of those above 0.7", "above 0.7", *sure)


def of_probes(times: int, rng) -> Iterator[Row]:
    """R^2 of probes that have nothing to do with robustness, and of one that has; 7 settings, 10 classes."""
    settings, classes = 7, 10
    for number in (1, 5, 24):
        best, p_values = [], []
        for _ in range(max(2, times // 2)):
            robustness = 0.15 * rng.normal(size=classes) + 0.03 * rng.normal(size=(settings, classes))
            probes = rng.normal(size=(number, 1, classes)) + 0.3 * rng.normal(size=(number, settings, classes))
            of = [held_out_before(probe, robustness) for probe in probes]
            best.append((max(of), max(ranking.held_out(probe, robustness).mean() for probe in probes)))
            p_values.append(np.min(ranking.held_out_p_values(probes, robustness, rng)))
        name = f"R^2 of the best of {number} irrelevant probes"
        yield Row(f"{name}: mean", "below 0", *np.mean(best, axis=0))
        yield Row("the same: 95th percentile", "", *np.quantile(best, 0.95, axis=0))
        yield Row("the same: p < 0.05", "0.05", np.nan, np.mean(np.array(p_values) < 0.05))
    for correlation in (0.8, 0.95):
        found, p_values = [], []
        for _ in range(max(2, times // 2)):
            latent = rng.normal(size=classes)
            robustness = 0.15 * latent + 0.03 * rng.normal(size=(settings, classes))
            probes = rng.normal(size=(24, 1, classes)) + 0.3 * rng.normal(size=(24, settings, classes))
            noise = np.sqrt(1 - correlation**2) * rng.normal(size=(1, classes))
            probes[0] = correlation * latent + noise + 0.1 * rng.normal(size=(settings, classes))
            found.append((held_out_before(probes[0], robustness), ranking.held_out(probes[0], robustness).mean()))
            p_values.append(ranking.held_out_p_values(probes, robustness, rng)[0])
        yield Row(f"R^2 of a probe that correlates at {correlation:g}: mean", "", *np.mean(found, axis=0))
        yield Row("the same among 24: p < 0.05", "power", np.nan, np.mean(np.array(p_values) < 0.05))


PARTS = (of_components, of_concordance, of_few_settings, of_balanced, of_spread, of_probability, of_probes)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=400, help="simulated studies of each kind")
    parser.add_argument("--part", default="", help="only the parts whose name contains this")
    arguments = parser.parse_args()
    print("| what | right | before | after |\n|---|---|--:|--:|")
    for part in PARTS:
        if arguments.part in part.__name__:
            for row in part(arguments.times, np.random.default_rng(0)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
