"""Changes of the classes of a data set, to measure how the other classes influence the ones that are kept.

    names, new_label = regroup(("cat", "dog", "car"), drop=("car",), merge=("cat+dog",))
    train = relabelled(train, new_label)
    train = thinned(train, names, ("cat:0.5",), rng)

A class is given by its name or by its label.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError, listed

_OTHERS = "*"  # in shares: all classes that are not named


def regroup(class_names: Sequence[str], drop: Sequence[str], merge: Sequence[str]) -> tuple[tuple, np.ndarray]:
    """The classes after dropping and merging some, in their old order, and the new label of each old class.

    Args:
        drop: classes whose images are left out; their new label is -1.
        merge: groups, joined by "+", that become one class at the position of their first member.

    Raises:
        FieldError: a class is unknown or named twice, a group has one class, or fewer than two classes are left.
    """
    groups = [[find(class_names, name, "data.merge") for name in group.split("+")] for group in merge]
    dropped = [find(class_names, name, "data.drop") for name in drop]
    for group, written in zip(groups, merge, strict=True):
        if len(group) < 2:
            raise FieldError("data.merge", tuple(merge), f"{written!r} is one class", "join several, as cat+dog")
    named = [c for group in groups for c in group] + dropped
    for c in named:
        if named.count(c) > 1:
            raise FieldError("data.merge", tuple(merge), f"{class_names[c]!r} is named twice", "name each class once")
    owner = {c: group[0] for group in groups for c in group}
    kept = [c for c in range(len(class_names)) if c not in dropped and owner.get(c, c) == c]
    if len(kept) < 2:
        raise FieldError("data.drop", tuple(drop), f"leaves {len(kept)} class", "leave two or more")
    joined = {group[0]: "+".join(class_names[c] for c in group) for group in groups}
    place = {c: new for new, c in enumerate(kept)}
    labels = [-1 if c in dropped else place[owner.get(c, c)] for c in range(len(class_names))]
    return tuple(joined.get(c, class_names[c]) for c in kept), np.array(labels, np.int32)


def relabelled(split: Split, new_label: np.ndarray) -> Split:
    """The images of the classes that are kept, in their old order, with new labels."""
    kept = new_label[split.labels] >= 0
    split = split if kept.all() else split.take(kept)
    return Split(split.images, new_label[split.labels])


def regrouped_counts(counts: Sequence[Mapping[str, int]], new_label: np.ndarray) -> list[collections.Counter]:
    """Counts of each old class, by kind, as sums of each new class; empty for none."""
    sums = [collections.Counter() for _ in range(int(new_label.max()) + 1)] if counts else []
    for of, label in zip(counts, new_label, strict=False):
        if label >= 0:
            sums[label] += of
    return sums


def thinned(train: Split, class_names: Sequence[str], shares: Sequence[str], rng: np.random.Generator) -> Split:
    """A random share of the training images of some classes, in the original order.

    With the same draw, the images kept for a smaller share are a subset of those kept for a larger share, and do not
    depend on the shares of other classes.

    Args:
        shares: "NAME:SHARE" for each class to thin, with a share in (0, 1]; "*:SHARE" for all classes not named.

    Raises:
        FieldError: an entry is not such a pair, or a class is unknown, named twice or would have no image left.
    """
    of_class = _shares(class_names, shares)
    kept = np.ones(len(train), bool)
    for c in range(len(class_names)):
        images = rng.permutation(np.flatnonzero(train.labels == c))
        share = of_class.get(c, of_class.get(_OTHERS, 1.0))
        number = round(share * len(images))
        if share < 1 and not number:
            problem = f"leaves no image of {class_names[c]!r}"
            raise FieldError("data.shares", tuple(shares), problem, "use a larger share")
        kept[images[number:]] = False
    return train if kept.all() else train.take(kept)


def _shares(class_names: Sequence[str], shares: Sequence[str]) -> dict:
    """Label, or `_OTHERS` -> share."""
    found = {}
    for entry in shares:
        name, _, share = entry.rpartition(":")
        try:
            share = float(share)
        except ValueError:
            share = 0.0
        if not (name and 0 < share <= 1):
            problem = f"{entry!r} is not a class and its share"
            remedy = "write cat:0.5, or *:0.5 for all others; up to 1"
            raise FieldError("data.shares", tuple(shares), problem, remedy)
        c = name if name == _OTHERS else find(class_names, name, "data.shares")
        if c in found:
            raise FieldError("data.shares", tuple(shares), f"{name!r} is named twice", "name each class once")
        found[c] = share
    return found


def find(class_names: Sequence[str], name: str, field: str) -> int:
    """The label of the class with that name, or with that label written in digits; a FieldError if there is none."""
    if name in class_names:
        return list(class_names).index(name)
    if name.isdecimal() and int(name) < len(class_names):
        return int(name)
    raise FieldError(field, name, "is not a class of the data", f"{listed(class_names)}, or a label from 0")
