"""Probes of data, features, frequencies and verdicts against what is known by hand."""

import numpy as np
import pytest

from jaxrobust.explanations import PROBES, features, frequency, neighbours, transfer, verdicts

RNG = np.random.default_rng(0)
# Three Gaussians in five dimensions: 0 and 1 are 4 apart along the first axis, 2 is far off along the second.
MEANS = np.array([[0.0, 0, 0, 0, 0], [4, 0, 0, 0, 0], [0, 30, 0, 0, 0]])
LABELS = np.repeat([0, 1, 2], [4000, 2000, 3000])
DEVIATION = np.array([1.0, 2.0, 1.0])
POINTS = MEANS[LABELS] + RNG.normal(size=(9000, 5)) * DEVIATION[LABELS, None]


def relabelled(function, points=POINTS, labels=LABELS, classes=3):
    """The values of `function`, and those with the classes renamed, put back in the old order."""
    order = np.array([2, 0, 1])
    return function(points, labels, classes), function(points, order[labels], classes)[order]


def test_gaussian_features_of_known_fisher_ratio():
    np.testing.assert_allclose(features.mean_distance(POINTS, LABELS, 3), [4, 4, 30], rtol=0.02)
    np.testing.assert_allclose(features.scatter(POINTS, LABELS, 3), DEVIATION * np.sqrt(5), rtol=0.02)
    expected = [4 / np.sqrt(5), 4 / np.sqrt(5), np.hypot(4, 30) / np.sqrt(5)]
    # 2 is less apart from 1, which is wider, than from 0.
    np.testing.assert_allclose(features.separation(POINTS, LABELS, 3), expected, rtol=0.03)


@pytest.mark.parametrize(
    "function",
    [
        features.mean_distance,
        features.scatter,
        features.separation,
        neighbours.neighbour_overlap,
        neighbours.distance_ratio,
    ],
)
def test_the_names_of_classes_do_not_matter(function):
    few = slice(None, None, 20)
    np.testing.assert_allclose(*relabelled(function, POINTS[few], LABELS[few]), rtol=1e-6)
    # Nor does a class without images change the others.
    with_absent = function(POINTS[few], LABELS[few], 4)
    np.testing.assert_allclose(with_absent[:3], function(POINTS[few], LABELS[few], 3), rtol=1e-6)
    assert np.isnan(with_absent[3])


def test_separation_of_points_and_of_identical_classes():
    points = np.array([[0.0, 0], [0, 0], [3, 4], [3, 4]])
    assert np.isinf(features.separation(points, np.array([0, 0, 1, 1]), 2)).all()
    np.testing.assert_array_equal(features.mean_distance(points, np.array([0, 0, 1, 1]), 2), [5, 5])
    np.testing.assert_array_equal(features.separation(points, np.array([0, 1, 0, 1]), 2), [0, 0])


def test_cosines_of_a_head():
    kernel = np.array([[1.0, 1, 0], [0, 1, -2]])
    np.testing.assert_allclose(features.largest_cosine(kernel), [np.sqrt(0.5), np.sqrt(0.5), 0], atol=1e-12)


def test_overlap_of_separated_and_of_identical_classes():
    labels = np.repeat([0, 1], 300)
    apart = RNG.normal(size=(600, 3)) + 100 * labels[:, None]
    assert neighbours.neighbour_overlap(apart, labels, 2).tolist() == [0, 0]
    assert (neighbours.distance_ratio(apart, labels, 2) > 10).all()
    same = RNG.normal(size=(600, 3))
    np.testing.assert_allclose(neighbours.neighbour_overlap(same, labels, 2), 0.5, atol=0.04)
    np.testing.assert_allclose(neighbours.distance_ratio(same, labels, 2), 1, atol=0.1)


def test_overlap_equals_that_of_all_pairs_and_of_any_number_of_rows_at_a_time(monkeypatch):
    labels = RNG.integers(0, 3, 80)
    points = RNG.normal(size=(80, 4)) + labels[:, None]
    squares = np.square(points[:, None] - points[None]).sum(2)
    np.fill_diagonal(squares, np.inf)
    nearest = np.argsort(squares, 1)[:, :10]
    expected = [(labels[nearest] != labels[:, None]).mean(1)[labels == c].mean() for c in range(3)]
    np.testing.assert_allclose(neighbours.neighbour_overlap(points, labels, 3), expected)
    monkeypatch.setattr(neighbours, "AT_ONCE", 500)
    np.testing.assert_allclose(neighbours.neighbour_overlap(points, labels, 3), expected)


def test_a_class_of_one_image():
    points, labels = np.array([[0.0], [1], [5]]), np.array([0, 0, 1])
    np.testing.assert_allclose(neighbours.neighbour_overlap(points, labels, 2), [0.5, 1])
    np.testing.assert_allclose(neighbours.distance_ratio(points, labels, 2), [4.5, np.nan])


def test_large_images_are_averaged():
    images = RNG.random((2, 130, 100, 3)).astype(np.float32)
    small = neighbours.shrink(images)
    assert small.shape == (2, 43 * 33 * 3)
    np.testing.assert_allclose(small[0, :3], images[0, :3, :3].mean((0, 1)), rtol=1e-5)
    assert neighbours.shrink(images[:, :64, :64]).shape == (2, 64 * 64 * 3)


def test_filters_keep_and_take_waves():
    constant = np.full((1, 8, 6, 3), 0.3, np.float32)
    np.testing.assert_allclose(frequency.low_pass(constant), constant, atol=1e-6)
    np.testing.assert_allclose(frequency.high_pass(constant), constant, atol=1e-6)

    def wave(cycles_per_pixel):
        along = 0.5 + 0.4 * np.cos(2 * np.pi * cycles_per_pixel * np.arange(16))
        return np.broadcast_to(along[None, None, :, None], (1, 16, 16, 1)).astype(np.float32)

    slow, fast, grey = wave(1 / 16), wave(6 / 16), np.full((1, 16, 16, 1), 0.5)
    np.testing.assert_allclose(frequency.low_pass(slow), slow, atol=1e-6)
    np.testing.assert_allclose(frequency.low_pass(fast), grey, atol=1e-6)
    np.testing.assert_allclose(frequency.high_pass(slow), grey, atol=1e-6)
    np.testing.assert_allclose(frequency.high_pass(fast), fast, atol=1e-6)


@pytest.mark.parametrize("unclassified", [0, 5])
def test_flows_of_errors(unclassified):
    """Images without a prediction are errors into no class."""
    confusion, count = np.array([[6, 3, 1], [0, 10, 0], [2, 2, 1]]), np.array([10, 10, 5 + unclassified])
    right = np.array([6, 10, 1])
    np.testing.assert_allclose(verdicts.flow_out(confusion, count), 1 - right / count)
    flow_in = verdicts.flow_in(confusion, count)
    np.testing.assert_allclose(flow_in, [2 / (15 + unclassified), 5 / (15 + unclassified), 1 / 20])
    np.testing.assert_allclose(verdicts.largest_rival(confusion, count), [0.75, np.nan, 2 / (4 + unclassified)])
    # What flows out flows in, in numbers of images, but for those.
    assert (flow_in * (count.sum() - count)).sum() == pytest.approx((count - right).sum() - unclassified)


def test_transferred_images_count_where_both_are_right():
    labels = np.array([0, 0, 0, 1, 1])
    natural = np.array([0, 0, 1, 1, -1])  # the third is wrong as it is; of the last the source was wrong
    adversarial = np.array([1, 0, 1, 1, 0])
    np.testing.assert_allclose(transfer.fooled(labels, natural, adversarial, 3), [0.5, 0, np.nan])


def test_the_registry():
    assert len(PROBES) >= 20
    for name, probe in PROBES.items():
        assert probe.name == name and probe.sign in (-1, 0, 1) and probe.looks_at in ("data", "model", "results")
        assert probe.meaning.endswith(".")
