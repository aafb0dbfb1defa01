"""What is wrong with a data set is said in one line that names it."""

import numpy as np
import pytest

from jaxrobust.data.checks import RawDataset, checked
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError


def raw(**changes) -> RawDataset:
    """A sound set of three classes, 6 training and 3 test images [4, 5, 3], with `changes`."""
    sound = {
        "class_names": ("cat", "dog", "emu"),
        "train_images": np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": np.zeros((3, 4, 5, 3), np.uint8),
        "test_labels": np.array([2, 1, 0], np.uint8),
    }
    names, *arrays = (sound | changes).values()
    return RawDataset(names, Split(*arrays[:2]), Split(*arrays[2:]))


def floats(*values, dtype=np.float32) -> np.ndarray:
    """Six images [4, 5, 3] of 0.5 that start with `values`."""
    images = np.full((6, 4, 5, 3), 0.5, dtype)
    images.flat[: len(values)] = values
    return images


def test_sound_uint8_set_passes_unchanged():
    given = raw()
    names, train, test = checked(given, "x")
    assert names == ("cat", "dog", "emu")
    assert train.images is given.train.images
    assert train.labels.dtype == test.labels.dtype == np.int32
    np.testing.assert_array_equal(test.labels, [2, 1, 0])
    np.testing.assert_array_equal(test.counts(4), [1, 1, 1, 0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_become_float32(dtype):
    _, train, _ = checked(raw(train_images=floats(0, 1, dtype=dtype), test_images=floats(dtype=dtype)[:3]), "x")
    assert train.images.dtype == np.float32
    assert (train.images.min(), train.images.max()) == (0, 1)


def test_class_without_test_example_is_allowed():
    _, _, test = checked(raw(test_labels=np.array([0, 0, 1])), "x")
    np.testing.assert_array_equal(test.counts(3), [2, 1, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("cat",)}, r"has 1 class; give two or more"),
        ({"class_names": ("cat", "dog", "cat")}, r"two classes are called 'cat'"),
        ({"class_names": ("cat", "dog")}, r"training labels hold 2 \(at index 2\); with 2 classes use labels 0 to 1"),
        ({"class_names": ("cat", "dog", "emu", "fox")}, r"class 'fox' \(label 3\) has no training example"),
        ({"train_labels": np.array([0, 1, 2, 0, -1, 2])}, r"training labels hold -1 \(at index 4\)"),
        ({"test_labels": np.array([0, 1, 3])}, r"test labels hold 3 \(at index 2\)"),
        ({"train_labels": np.array([0, 1, 0, 0, 1, 0])}, r"class 'emu' \(label 2\) has no training example; add"),
        ({"train_labels": np.arange(6.0) % 3}, r"training labels are of type float64; store them as integers"),
        (
            {"train_labels": np.array([[0], [1], [2], [0], [1], [2]])},
            r"labels have shape \(6, 1\); store them as \[N\]",
        ),
        ({"train_labels": np.array([0, 1, 2])}, r"6 training images but 3 training labels"),
        ({"test_images": np.zeros((0, 4, 5, 3), np.uint8)}, r"test images are missing"),
        ({"test_images": np.zeros((3, 5, 5, 3), np.uint8)}, r"training images are 4 x 5 x 3 but test .* 5 x 5 x 3"),
        ({"test_images": floats()[:3]}, r"training images are uint8 but test images are float32"),
        ({"train_images": np.zeros((6, 20), np.uint8)}, r"have shape \(6, 20\); store them as \[N, height"),
        ({"train_images": np.zeros((6, 3, 32, 32), np.uint8)}, r"channels before height and width; transpose"),
        ({"train_images": np.zeros((6, 4, 5, 3), np.int64)}, r"are of type int64; store them as uint8"),
        ({"train_images": floats(np.nan, np.inf)}, r"NaN or infinity in 2 of 360 pixels"),
        ({"train_images": floats(0, 255)}, r"lie in \[0, 255\], outside \[0, 1\]; divide them by 255"),
        ({"train_images": floats(-1, 1)}, r"lie in \[-1, 1\], outside \[0, 1\]; undo their normalisation"),
        ({"train_images": floats() / 255}, r"training images lie in \[0.00196, 0.00196\], as if divided by 255 twice"),
        ({"train_images": np.zeros((6, 4, 32, 20), np.uint8)}, r"channels before height and width; transpose"),
        ({"train_images": np.zeros((6, 1, 18, 8), np.uint8)}, r"channels before height and width; transpose"),
        ({"train_images": floats(0, 1.2)}, r"lie in \[0, 1.2\], outside \[0, 1\]; undo"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(FieldError, match=message) as error:
        checked(raw(**changes), "folder:pets")
    assert str(error.value).startswith("data.name = 'folder:pets': ")
    assert "\n" not in str(error.value)


def photographs(number=40) -> np.ndarray:
    """Images [N, 6, 5, 3] of any brightness, as floats."""
    rng = np.random.default_rng(number)
    return rng.uniform(0.2, 0.8, (number, 1, 1, 1)) + rng.uniform(-0.2, 0.2, (number, 6, 5, 3))


def said_of(capsys, train, test) -> str:
    """The warnings on two splits of two classes."""
    splits = (Split(images, np.arange(len(images)) % 2) for images in (train, test))
    checked(RawDataset(("cat", "dog"), *splits), "x")
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("train", "test", "warning"),
    [
        (lambda x: x, lambda x: x / 10, "the mean of the test pixels is 0.05"),
        (lambda x: x, lambda x: 0.4 + 0.1 * (x - 0.4), "the mean of the test pixels is"),
        (lambda x: 0.3 * x, lambda x: 1 - 0.3 * x, "the mean of the test pixels is 0.8"),
        (lambda x: x, lambda x: 0 * x, "all pixels of the test images are 0; check"),
        (lambda x: x / 16, lambda x: x / 16, r"the brightest pixel of the training images is 0.06"),
        (
            lambda x: np.repeat(x, 2, -1)[..., :4],
            lambda x: np.repeat(x, 2, -1)[..., :4],
            "training images have 4 channels",
        ),
        (lambda x: np.repeat(x, 6, -1), lambda x: np.repeat(x, 6, -1), "training images have 18 channels"),
    ],
)
def test_what_is_hardly_meant_is_warned_of(capsys, train, test, warning):
    x = photographs()
    for of in (lambda x: x, lambda x: np.uint8(np.rint(255 * x))):
        assert f"warning: data.name = 'x': {warning}"[:60] in said_of(capsys, of(train(x)), of(test(x)))


def test_no_warning_of_what_differs_by_chance_or_is_merely_dark(capsys):
    x = photographs()
    order = np.argsort(x.mean((1, 2, 3)))
    bordered = np.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)])
    for train, test in ((x, x[order[:20]]), (x, x[order[-20:]]), (x / 3, x / 3), (x, x / 2), (x, x[:2] / 20)):
        assert said_of(capsys, train, test) == ""
    assert said_of(capsys, bordered, bordered) == ""
