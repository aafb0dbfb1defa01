"""Components of variance: the mean squares of balanced designs, and simulated ones that are not balanced."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from jaxrobust.classwise.components import measured, variance_components

TRUTH = {
    "class": 0.010,
    "arch": 0.002,
    "rate": 0.0015,
    "class x arch": 0.0015,
    "class x rate": 0.001,
    "run": 0.0012,
    "residual": 0.0006,
}


def _simulated(factors, classes, truth, rng):
    """Accuracies [R, C] of the model."""
    runs = len(next(iter(factors.values())))

    def effect(name, *shape):
        return math.sqrt(truth[name]) * rng.normal(size=shape)

    accuracy = 0.45 + effect("class", classes) + effect("run", runs, 1) + effect("residual", runs, classes)
    for name, levels in factors.items():
        number = max(levels) + 1
        accuracy = accuracy + effect(name, number, 1)[levels] + effect(f"class x {name}", number, classes)[levels]
    return np.clip(accuracy, 0, 1)


def _judged(accuracy, images, rng, shared=0.0):
    """What is measured on images whose difficulty the runs have in common to this share."""
    runs, classes = accuracy.shape
    common, own = rng.normal(size=(1, classes, images)), rng.normal(size=(runs, classes, images))
    difficulty = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
    is_robust = difficulty < norm.ppf(np.clip(accuracy, 1e-9, 1 - 1e-9))[:, :, None]
    return measured(is_robust.reshape(runs, -1), np.repeat(np.arange(classes), images), classes)


def _mean_squares(y_AxBxC):
    """Estimates of the analysis of variance of a full product without repetitions, from its mean squares."""
    a, b, c = y_AxBxC.shape
    names = "abc"

    def mean_square(kept):
        effect = sum(
            (-1) ** (len(kept) - len(subset))
            * y_AxBxC.mean(tuple(i for i, n in enumerate(names) if n not in subset), keepdims=True)
            for subset in _subsets(kept)
        )
        degrees = math.prod(size - 1 for size, n in zip((a, b, c), names, strict=True) if n in kept)
        return (np.broadcast_to(effect, y_AxBxC.shape) ** 2).sum() / degrees

    ms = {kept: mean_square(kept) for kept in ("a", "b", "c", "ab", "ac", "bc", "abc")}
    return {
        "class": (ms["c"] - ms["ac"] - ms["bc"] + ms["abc"]) / (a * b),
        "arch": (ms["a"] - ms["ab"] - ms["ac"] + ms["abc"]) / (b * c),
        "rate": (ms["b"] - ms["ab"] - ms["bc"] + ms["abc"]) / (a * c),
        "class x arch": (ms["ac"] - ms["abc"]) / b,
        "class x rate": (ms["bc"] - ms["abc"]) / a,
        "run": (ms["ab"] - ms["abc"]) / c,
        "residual": ms["abc"],
        "sampling": 0.0,
    }


def _subsets(names):
    return ["".join(n for i, n in enumerate(names) if bits >> i & 1) for bits in range(2 ** len(names))]


def _product(*sizes):
    return [index.ravel() for index in np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij")]


def test_balanced_design_has_the_estimators_of_the_analysis_of_variance():
    a, b, c = 5, 6, 8
    compared, rng = 0, np.random.default_rng(0)
    factors = dict(zip(("arch", "rate"), _product(a, b), strict=True))
    for _ in range(10):
        accuracy = _simulated(factors, c, TRUTH, rng)
        expected = _mean_squares(accuracy.reshape(a, b, c))
        if min(expected.values()) >= 0:
            assert variance_components(accuracy, None, factors).variance == pytest.approx(expected, abs=1e-12)
            compared += 1
    assert compared >= 5


def test_pooled_interactions_of_three_factors_have_the_pooled_mean_square():
    """More patterns of shared levels than components: the weights decide, and they are those of the degrees."""
    rng, a, b, d, c = np.random.default_rng(1), 3, 3, 4, 6
    factors = dict(zip(("arch", "rate", "seed"), _product(a, b, d), strict=True))
    truth = TRUTH | {"seed": 0.001, "class x seed": 0.001}
    accuracy = _simulated(factors, c, truth, rng)
    profile = accuracy - accuracy.mean(1, keepdims=True)
    y = profile.reshape(a, b, d, c)
    effects = [y.mean(axes, keepdims=True) - y.mean((0, 1, 2), keepdims=True) for axes in ((1, 2), (0, 2), (0, 1))]
    rest = y - y.mean((0, 1, 2), keepdims=True) - sum(effects)
    residual = (rest**2).sum() / ((a * b * d - 1 - (a - 1) - (b - 1) - (d - 1)) * (c - 1))
    of_arch = b * d * (effects[0] ** 2).sum() / ((a - 1) * (c - 1))
    found = variance_components(accuracy, None, factors).variance
    assert found["residual"] == pytest.approx(residual)
    assert found["class x arch"] == pytest.approx((of_arch - residual) / (b * d))


def test_one_axis_at_a_time_with_missing_runs_is_unbiased():
    """A base with three seeds, other levels with one or two; few images, whose sampling variance is taken off."""
    arch = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4, 0, 0, 0, 0, 0, 0])
    rate = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4])
    truth = TRUTH | {"run": 0.004}  # large, so that it is hardly ever cut off, and what follows is unbiased
    rng, found, repeats, images = np.random.default_rng(2), [], 300, 200
    for _ in range(repeats):
        accuracy = _simulated({"arch": arch, "rate": rate}, 10, truth, rng)
        drawn, covariance = _judged(accuracy, images, rng)
        found.append(variance_components(drawn, covariance, {"arch": arch, "rate": rate}).variance)
    for name in ("class", "class x arch", "class x rate", "residual"):
        values = [f[name] for f in found]
        assert np.mean(values) == pytest.approx(truth[name], abs=4 * np.std(values) / math.sqrt(repeats)), name
    for name in ("arch", "rate"):  # five levels: cut off at 0 often
        assert np.mean([f[name] for f in found]) == pytest.approx(truth[name], rel=0.35), name


def test_shares_add_up_and_the_interval_covers_the_class_order():
    factors = dict(zip(("arch", "rate"), _product(4, 4), strict=True))
    between = sum(TRUTH[name] for name in ("class", "class x arch", "class x rate", "residual"))
    rng, covered = np.random.default_rng(3), []
    for _ in range(100):
        found = variance_components(_simulated(factors, 20, TRUTH, rng), None, factors)
        assert sum(found.share.values()) == pytest.approx(1)
        assert all(found.share_low[n] <= found.share[n] <= found.share_high[n] for n in found.share)
        covered.append(found.explained_low <= TRUTH["class"] / between <= found.explained_high)
    assert np.mean(covered) > 0.88
    assert found.classes == 20


def test_jackknife_error_is_that_of_repeated_draws_of_classes():
    factors = dict(zip(("arch", "rate"), _product(4, 4), strict=True))
    rng = np.random.default_rng(4)
    found = [variance_components(_simulated(factors, 20, TRUTH, rng), None, factors) for _ in range(100)]
    for name in ("class", "class x arch", "residual"):
        scatter = np.std([f.variance[name] for f in found])
        assert np.mean([f.error[name] for f in found]) == pytest.approx(scatter, rel=0.25), name


def test_sampling_variance_alone_leaves_nothing_else():
    rng = np.random.default_rng(5)
    accuracy, covariance = _judged(np.full((12, 30), 0.4), 100, rng)
    factors = {"arch": np.arange(12) % 3}
    found = variance_components(accuracy, covariance, factors)
    assert found.share["sampling"] > 0.85
    assert found.variance["sampling"] == pytest.approx(0.4 * 0.6 / 100, rel=0.05)
    kept = variance_components(accuracy, None, factors)
    assert kept.variance["sampling"] == 0 and kept.variance["residual"] == pytest.approx(0.0024, rel=0.2)


def test_four_identical_runs_on_the_same_images_by_hand():
    correct = [45, 50, 55, 60]
    one = np.concatenate([np.arange(100) < k for k in correct])
    accuracy, covariance = measured(np.tile(one, (4, 1)), np.repeat(np.arange(4), 100), 4)
    found = variance_components(accuracy, covariance, {"seed": [0, 0, 1, 1]})
    of_images = np.mean([k / 100 * (1 - k / 100) / 99 for k in correct])
    assert found.variance["class"] == pytest.approx(np.var(accuracy[0], ddof=1) - of_images)
    assert found.variance["class"] == pytest.approx(0.00168, abs=5e-6)


def test_covariances_are_those_of_repeated_draws_whichever_images_runs_share():
    """Of two runs on the same images, and a third on half of them and as many others."""
    rng, seen, estimated = np.random.default_rng(8), [], []
    labels = np.zeros(90, int)
    for _ in range(6000):
        difficulty = math.sqrt(0.8) * rng.normal(size=90) + math.sqrt(0.2) * rng.normal(size=(3, 90))
        is_robust = (difficulty < 0.3).astype(int)
        is_robust[:2, 60:], is_robust[2, :30] = -1, -1
        accuracy, covariance = measured(is_robust, labels, 1)
        seen.append(accuracy[:, 0])
        estimated.append(covariance[0])
    np.testing.assert_allclose(np.mean(estimated, axis=0), np.cov(np.array(seen).T), rtol=0.1)
    apart = np.full((2, 8), -1)
    apart[0, :4] = apart[1, 4:] = [0, 1, 0, 1]
    assert measured(apart, np.zeros(8, int), 1)[1][0, 0, 1] == 0


def test_images_that_are_hard_for_all_runs_do_not_pass_for_classes_that_are():
    rng, factors = np.random.default_rng(9), {"arch": np.arange(12) // 3}
    draws = [_judged(np.full((12, 10), 0.5), 100, rng, shared=0.85) for _ in range(60)]
    own = [variance_components(a, c * np.eye(12), factors).variance["class"] for a, c in draws]
    both = [variance_components(a, c, factors).variance["class"] for a, c in draws]
    assert np.mean(own) > 0.001 and np.mean(both) < 0.0006


def test_profiles_that_are_all_alike_are_explained_by_class():
    accuracy = np.linspace(0.2, 0.6, 6) + np.array([0.0, 0.1, 0.2, 0.3])[:, None]
    found = variance_components(accuracy, None, {"arch": ["a", "a", "b", "b"]})
    assert found.explained_by_class_order == pytest.approx(1)
    assert found.variance["class"] == pytest.approx(np.linspace(0.2, 0.6, 6).var(ddof=1))
    nothing = variance_components(np.full((4, 6), 0.5), None, {"arch": ["a", "a", "b", "b"]})
    assert math.isnan(nothing.explained_by_class_order) and math.isnan(nothing.share["class"])
    # Nor does rounding: no mean of equal numbers has to be that number.
    equal = variance_components(np.full((12, 5), 0.95), None, {"seed": [0, 1, 2] * 4})
    assert math.isnan(equal.share["class"])
    nearly = 0.95 + 3e-10 * np.random.default_rng(0).normal(size=(12, 5))  # a variance of 9e-20
    assert math.isnan(variance_components(nearly, None, {"seed": [0, 1, 2] * 4}).share["class"])


def test_no_interval_of_the_class_order_collapses():
    """Where every estimate without a class is cut off at 0, or at 1, or varies with the one class that is far off."""
    a = 0.5 + 0.05 * np.array([[1, 0, -1, 0, 1, -1, 0, 0], [0, 1, 0, -1, 0, 0, 1, -1], [-1, 0, 1, 0, -1, 1, 0, 0]])
    found = variance_components(np.repeat(a, 2, 0), None, {"setting": [0, 0, 1, 1, 2, 2]})
    assert found.explained_by_class_order == found.explained_low == 0 and 0.2 < found.explained_high < 0.8
    assert all(found.share_low[name] < found.share_high[name] for name in ("class", "class x setting"))
    one = np.concatenate([np.arange(100) < k for k in (45, 50, 55, 60)])
    measured_of = measured(np.tile(one, (4, 1)), np.repeat(np.arange(4), 100), 4)
    found = variance_components(*measured_of, {"seed": [0, 0, 1, 1]})
    assert found.explained_low <= found.explained_by_class_order == found.explained_high == 1
    assert found.explained_low < 0.5  # the classes may be equal
    rng, far = np.random.default_rng(0), 0.5 - 0.25 * (np.arange(10) == 0)
    profile = far + 0.02 * rng.normal(size=(4, 10))[np.arange(12) // 3]
    found = variance_components(*_judged(profile, 200, rng, 0.85), {"setting": np.arange(12) // 3})
    assert found.explained_low > 0.5 and found.explained_low < found.explained_high


@pytest.mark.parametrize("of_class, of_setting", [(0.05, 0.05), (0.05, 0.01), (0.0, 0.05), (0.15, 0.05)])
def test_interval_of_the_class_order_covers(of_class, of_setting):
    rng, factors, covered = np.random.default_rng(10), {"setting": np.arange(12) // 3}, []
    for _ in range(100):
        profile = 0.5 + of_class * rng.normal(size=10) + of_setting * rng.normal(size=(4, 10))[factors["setting"]]
        found = variance_components(*_judged(np.clip(profile, 0.02, 0.98), 100, rng, 0.85), factors)
        truth = of_class**2 / (of_class**2 + of_setting**2)
        if not math.isnan(found.explained_by_class_order):  # else there is nothing to explain
            covered.append(found.explained_low - 1e-9 <= truth <= found.explained_high)
            assert found.explained_low < found.explained_high
    assert np.mean(covered) > 0.9


def test_classes_that_a_run_lacks_take_no_part():
    rng = np.random.default_rng(6)
    accuracy, levels = rng.random((6, 8)), {"arch": list("aabbcc")}
    lacking = accuracy.copy()
    lacking[2, 3] = np.nan
    without = np.delete(accuracy, 3, 1)
    assert variance_components(lacking, None, levels) == variance_components(without, None, levels)


def test_two_hundred_runs_of_a_hundred_classes():
    rng = np.random.default_rng(7)
    factors = {name: rng.integers(0, 4, 200) for name in ("data", "arch", "rate", "radius", "seed")}
    found = variance_components(rng.random((200, 100)), np.zeros((100, 200, 200)), factors)
    assert found.share["residual"] > 0.8 and found.classes == 100


def test_wrong_input():
    accuracy, two = np.full((4, 5), 0.5), list("aabb")
    with pytest.raises(ValueError, match="'arch' has the level 'a' in all runs"):
        variance_components(accuracy, None, {"arch": list("aaaa")})
    with pytest.raises(ValueError, match="effects of arch, rate;"):
        variance_components(accuracy, None, {"arch": two, "rate": [1, 1, 2, 2]})
    with pytest.raises(ValueError, match="effects of arch, the single run;"):
        variance_components(accuracy, None, {"arch": list("abcd")})
    with pytest.raises(ValueError, match="3 labels for 4 runs"):
        variance_components(accuracy, None, {"arch": list("aab")})
    with pytest.raises(ValueError, match="names of other components"):
        variance_components(accuracy, None, {"class": two})
    with pytest.raises(ValueError, match="needs three"):
        variance_components(accuracy[:, :2], None, {"arch": two})
    with pytest.raises(ValueError, match="fraction"):
        variance_components(100 * accuracy, None, {"arch": two})
    with pytest.raises(ValueError, match="single image"):
        variance_components(*measured(np.ones((4, 5), bool), np.arange(5), 5), {"arch": two})
    with pytest.raises(ValueError, match=r"\[C, R, R\]"):
        variance_components(accuracy, np.ones((4, 5)), {"arch": two})
    with pytest.raises(ValueError, match="one for each image"):
        measured(np.ones((4, 5), bool), np.arange(4), 5)
