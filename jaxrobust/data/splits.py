"""Stratified splits: the same number of examples from every class, in the original order."""

from collections.abc import Sequence

import numpy as np

from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError


def stratified_mask(labels: np.ndarray, per_class: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Mask [N] of `per_class` random examples of every class, which has at least that many of the labels [N]."""
    mask = np.zeros(len(labels), bool)
    for label in range(num_classes):
        mask[rng.choice(np.flatnonzero(labels == label), per_class, replace=False)] = True
    return mask


def hold_out(
    train: Split,
    per_class: int,
    class_names: Sequence[str],
    rng: np.random.Generator,
    field: str = "data.validation_per_class",
) -> tuple[Split, Split]:
    """(rest, validation): `per_class` examples of every class moved from a training split to a validation split.

    Both keep the order of `train`. A FieldError if a class would be left without a training example.
    """
    counts = train.counts(len(class_names))
    smallest = int(counts.argmin())
    if per_class >= counts[smallest]:
        problem = f"class {class_names[smallest]!r} has only {counts[smallest]} training examples"
        raise FieldError(field, per_class, problem, f"use at most {counts[smallest] - 1}")
    if per_class == 0:
        return train, Split(train.images[:0], train.labels[:0])
    held = stratified_mask(train.labels, per_class, len(class_names), rng)
    return train.take(~held), train.take(held)


def stratified_subset(labels: np.ndarray, size: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Indices [min(size, N)] of a random subset that keeps the shares of the classes, rising; size 0 takes all.

    Each class of the labels [N] has its share of `size` up to rounding; the largest remainders round up.
    """
    if size == 0 or size >= len(labels):
        return np.arange(len(labels))
    shares = np.bincount(labels, minlength=num_classes) * (size / len(labels))
    per_class = np.floor(shares).astype(int)
    rounded_up = np.argsort(per_class - shares, kind="stable")[: size - per_class.sum()]
    per_class[rounded_up] += 1
    draw = enumerate(per_class)
    chosen = [rng.choice(np.flatnonzero(labels == label), number, replace=False) for label, number in draw]
    return np.sort(np.concatenate(chosen))
