"""The figures hold what they should, at any number of classes, and their labels keep apart."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from drawn_texts import LONG_NAMES, collisions, drawn_texts
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from jaxrobust import figures
from jaxrobust.classwise import wilson_interval
from jaxrobust.figures.classes import Curve, class_bars, class_curves, learning_curves, spread
from jaxrobust.figures.images import adversarial_images
from jaxrobust.figures.matrix import MATRIX_CELLS, cell_numbers, confusion_matrix

NUM_CLASSES = (2, 10, 100, 1000)
SVG = "{http://www.w3.org/2000/svg}"


def _names(num_classes):
    return LONG_NAMES if num_classes == 10 else [f"class {i}" for i in range(num_classes)]


def _series(num_classes, attacks=("clean", "pgd20", "cw20")):
    rng = np.random.default_rng(num_classes)
    count = np.full(num_classes, 50)
    correct = {attack: rng.integers(51 // (i + 1), size=num_classes) for i, attack in enumerate(attacks)}
    return {attack: (k / count, *wilson_interval(k, count)) for attack, k in correct.items()}


def _matrix(num_classes):
    return np.random.default_rng(0).poisson(1, (num_classes, num_classes)) + 30 * np.eye(num_classes, dtype=int)


def _class_curves(num_classes, names=None):
    accuracy = np.random.default_rng(0).random((5, num_classes))
    return class_curves([1, 2, 3, 4, 5], accuracy, names or _names(num_classes), "under pgd20", 4)


def _learning_curves():
    epoch = [1, 2, 3]
    curve = Curve(epoch, [0.1, 0.2, 0.3], [0.0, 0.1, 0.1])
    both = {"raw": curve, "averaged": curve}
    return learning_curves({"clean": both, "pgd20": both, "training attack": {"training": curve}}, "run", 2)


def _adversarial_images(channels=3):
    rng = np.random.default_rng(0)
    images = rng.random((5, 8, 8, channels))
    adversarial = np.clip(images + 8 / 255 * rng.choice([-1, 1], images.shape), 0, 1)
    return adversarial_images(images, adversarial, [0, 1, 2, 3, 4], [0, 1, 3, 3, 9], LONG_NAMES)


ALL = [
    *[pytest.param(lambda n=n: class_bars(_names(n), _series(n)), id=f"bars-{n}") for n in NUM_CLASSES],
    *[pytest.param(lambda n=n: confusion_matrix(_matrix(n), _names(n)), id=f"conf-{n}") for n in NUM_CLASSES],
    *[pytest.param(lambda n=n: _class_curves(n), id=f"curves-{n}") for n in NUM_CLASSES],
    pytest.param(_learning_curves, id="learning"),
    pytest.param(_adversarial_images, id="images"),
]


@pytest.mark.parametrize("make", ALL)
def test_every_figure_is_an_svg_and_pixels_without_colliding_text(make):
    figure = make()
    svg = figures.to_svg(figure)
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert not root.findall(f".//{SVG}style")
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    pixels = figures.to_rgb(figure)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert (pixels[0, 0] == 255).all() and pixels.std() > 0
    assert collisions(figure) == []


@pytest.mark.parametrize("make", ALL)
def test_no_text_leaves_the_figure(make):
    figure = make()
    height, width, _ = figures.to_rgb(figure).shape
    texts = drawn_texts(figure)
    assert texts
    for text, box in texts:
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, text


def test_bars_one_per_class_and_attack_sorted_by_the_strongest():
    series = _series(10)
    (axes,) = class_bars(LONG_NAMES, series).axes
    assert len(axes.patches) == 10 * 3
    order = np.argsort(series["cw20"][0], kind="stable")
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [figures.shorten(LONG_NAMES[c]) for c in order]
    widths = [bar.get_width() for bar in axes.containers[-2].patches]
    np.testing.assert_allclose(widths, np.sort(series["cw20"][0]))


def test_bars_of_many_classes_name_the_extremes():
    series = _series(100)
    rank, worst, best = class_bars(_names(100), series).axes
    order = [f"class {c}" for c in np.argsort(series["cw20"][0], kind="stable")]
    assert [label.get_text() for label in worst.get_yticklabels()] == order[:10]
    assert [label.get_text() for label in best.get_yticklabels()] == order[-10:]
    assert rank.get_xlim() == (1, 100)


def test_bars_leave_out_classes_without_accuracy():
    accuracy, low, high = np.array([0.5, np.nan, 0.2]), np.array([0.4, 0, 0.1]), np.array([0.6, 1, 0.3])
    (axes,) = class_bars(["a", "b", "c"], {"clean": (accuracy, low, high)}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a"]


def test_confusion_shows_shares_of_the_true_class():
    axes = confusion_matrix([[8, 2, 0], [1, 3, 0], [0, 0, 0]], ["a", "b", "c"]).axes[0]
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown[:2], [[0.8, 0.2, 0], [0.25, 0.75, 0]])
    assert np.ma.getmaskarray(np.ma.masked_invalid(shown))[2].all()
    assert sorted(text.get_text() for text in axes.texts) == ["20", "25", "75", "80"]


def test_large_confusion_is_ordered_by_accuracy_and_keeps_isolated_peaks():
    num_classes = 1000
    matrix = 10 * np.eye(num_classes, dtype=int)
    matrix[7, 7], matrix[7, 400] = 1, 9  # class 7 is the worst, nearly always taken for class 400
    axes = confusion_matrix(matrix, _names(num_classes)).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert len(shown) <= MATRIX_CELLS
    off_diagonal = shown - np.diag(np.diag(shown))
    assert off_diagonal.max() == pytest.approx(0.9) and off_diagonal.argmax() < len(shown)


def test_cells_without_a_value_hold_no_number():
    axes = Figure().subplots()
    cell_numbers(axes, np.array([[0.9, np.nan], [-0.7, 0.25]]), "{:.1f}".format, dark=0.6)
    assert [text.get_text() for text in axes.texts] == ["0.9", "-0.7", "0.2"]
    assert [same_color(text.get_color(), "white") for text in axes.texts] == [True, True, False]


def test_class_curves_name_every_class_or_the_extremes():
    named = [text.get_text() for text in _class_curves(10).axes[0].texts]
    assert sorted(named) == sorted(figures.shorten(name) for name in LONG_NAMES)
    accuracy = np.tile(np.linspace(0, 1, 100), (3, 1))
    axes = class_curves([1, 2, 3], accuracy, _names(100)).axes[0]
    assert [text.get_text() for text in axes.texts] == [f"class {c}" for c in (*range(5), *range(95, 100))]


def test_class_curves_of_one_checkpoint_with_an_absent_class():
    figure = class_curves([3], [[0.2, np.nan, 0.4]], ["a", "b", "c"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "c"]
    ElementTree.fromstring(figures.to_svg(figure))


def test_identical_lines_have_separate_labels():
    figure = class_curves([1, 2], np.full((2, 10), 0.0), LONG_NAMES)
    assert collisions(figure) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_adversarial_images_state_the_scale_of_the_difference(channels):
    figure = _adversarial_images(channels)
    rows = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert len(figure.axes) == 3 * 5
    assert rows == ["image", "adversarial", f"{0.5 * 255 / 8:.3g} x difference"]
    unchanged = adversarial_images(*np.full((2, 1, 4, 4, 1), 0.5), [0], [0], ["a"])
    assert "no difference" in [axes.get_ylabel() for axes in unchanged.axes]


@pytest.mark.parametrize(
    "positions, distance, expected",
    [
        ([0.1, 0.5, 0.9], 0.1, [0.1, 0.5, 0.9]),
        ([0.5, 0.5], 0.2, [0.4, 0.6]),
        ([0.0, 0.0, 0.0], 0.1, [0.0, 0.1, 0.2]),
        ([0.2, 0.95, 1.0], 0.1, [0.2, 0.9, 1.0]),
        ([0.5] * 5, 0.5, [0, 0.25, 0.5, 0.75, 1]),
        ([0.7], 0.5, [0.7]),
        ([], 0.5, []),
    ],
)
def test_spread_moves_labels_as_little_as_needed(positions, distance, expected):
    np.testing.assert_allclose(spread(positions, distance, 0, 1), expected, atol=1e-12)


def test_svg_is_deterministic_and_two_share_a_page():
    first, again, other = (figures.to_svg(_class_curves(n)) for n in (10, 10, 2))
    assert first == again
    ids = [
        {element.get("id") for element in ElementTree.fromstring(svg).iter() if element.get("id")}
        for svg in (first, other)
    ]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("file_format, start", [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_files_are_deterministic(file_format, start):
    first, again = (figures.to_file(_class_curves(10), file_format) for _ in range(2))
    assert first == again and first.startswith(start)


@pytest.mark.parametrize("name", ['<b>&"x', "$5 or $6", "--><script>", 'id="a" url(#b) #1f2329 -->', "鸟", "a\nb\x00"])
def test_class_names_are_shown_as_they_are(name):
    root = ElementTree.fromstring(figures.to_svg(_class_curves(2, [name, "other"])))
    texts = {"".join(element.itertext()) for element in root.iter(f"{SVG}text")}
    assert figures.shorten(name) in texts
    assert not root.findall(".//script")


def test_shorten_keeps_both_ends():
    assert figures.shorten("short") == "short"
    short = figures.shorten("golden retriever, adult, number 7")
    assert len(short) == figures.NAME_LENGTH and short.startswith("golden") and short.endswith("number 7")
