"""Classes left out, merged and thinned."""

import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.data import classes
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

NAMES = ("cat", "dog", "deer", "car")


def split(counts=(6, 4, 5, 3)):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), counts)).astype(np.int32)
    # Each image holds its own number.
    return Split(np.arange(labels.size, dtype=np.uint8)[:, None, None, None], labels)


def test_labels_and_names_go_together():
    names, new_label = classes.regroup(NAMES, drop=("dog",), merge=("deer+car",))
    assert names == ("cat", "deer+car") and new_label.tolist() == [0, -1, 1, 1]
    names, new_label = classes.regroup(NAMES, drop=(), merge=("car+cat", "1+deer"))
    # In the place of the first that is written.
    assert names == ("dog+deer", "car+cat") and new_label.tolist() == [1, 0, 0, 1]
    before = split()
    after = classes.relabelled(before, new_label)
    assert len(after) == len(before) and (after.labels == new_label[before.labels]).all()
    without = classes.relabelled(before, classes.regroup(NAMES, ("0",), ())[1])
    assert without.counts(3).tolist() == [4, 5, 3]
    assert (np.diff(without.images.ravel().astype(int)) > 0).all()
    for image, label in zip(without.images.ravel(), without.labels, strict=True):
        assert before.labels[image] == label + 1


def test_shares_are_nested_and_leave_the_others_alone():
    before = split((60, 40, 50, 30))
    kept = [classes.thinned(before, NAMES, (f"cat:{s}", "car:0.5"), np.random.default_rng(3)) for s in (0.1, 0.5, 1.0)]
    assert [of.counts(4).tolist() for of in kept] == [[6, 40, 50, 15], [30, 40, 50, 15], [60, 40, 50, 15]]
    cats = [set(of.images.ravel()[of.labels == 0].tolist()) for of in kept]
    assert cats[0] < cats[1] < cats[2]
    assert classes.thinned(before, NAMES, (), np.random.default_rng(0)) is before


def test_a_share_of_all_others_keeps_what_is_kept_of_a_class_by_its_name():
    before = split()
    all_others, named = (
        classes.thinned(before, NAMES, shares, np.random.default_rng(3))
        for shares in (("*:0.5", "cat:1"), ("car:0.5",))
    )
    for c, name in enumerate(NAMES):
        number, expected = (all_others.labels == c).sum(), (before.labels == c).sum()
        assert number == (expected if name == "cat" else round(expected / 2))
    car = NAMES.index("car")
    np.testing.assert_array_equal(*(split.images[split.labels == car] for split in (all_others, named)))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"drop": ("lynx",)}, ("data.drop", "lynx", "0, 1")),
        ({"drop": ("10",)}, ("data.drop", "'10'")),
        ({"merge": ("3",)}, ("data.merge", "one class")),
        ({"merge": ("3+4", "4+5")}, ("data.merge", "'4' is named twice")),
        ({"drop": ("3",), "merge": ("3+4",)}, ("'3' is named twice",)),
        ({"drop": tuple("012345678")}, ("data.drop", "leaves 1 class")),
        ({"shares": ("3:0",)}, ("data.shares", "3:0")),
        ({"shares": ("3",)}, ("data.shares",)),
        ({"shares": ("3:half",)}, ("data.shares", "half")),
        ({"shares": ("3:0.001",)}, ("data.shares", "no image")),
        ({"shares": ("3:0.5", "3:0.2")}, ("data.shares", "named twice")),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(FieldError) as error:
        data.load("digits", **changes)
    assert all(word in str(error.value) for word in words)


def test_a_data_set_and_its_description_agree():
    whole = data.load("digits", validation_per_class=5)
    some = data.load("digits", validation_per_class=5, drop=("3",), merge=("8+9",), shares=("0:0.5",))
    assert some.class_names == ("0", "1", "2", "4", "5", "6", "7", "8+9")
    before, after = whole.train.counts(10), some.train.counts(8)
    # As many of each class are held out, and of merged ones as of one.
    assert after.tolist() == [round(before[0] / 2), *before[[1, 2, 4, 5, 6, 7]], before[8] + before[9] + 5]
    assert some.validation.counts(8).tolist() == [5] * 8
    assert some.test.counts(8)[-1] == whole.test.counts(10)[[8, 9]].sum()
    described = data.described(some)
    assert (described.num_classes, described.train_examples) == (8, len(some.train))
