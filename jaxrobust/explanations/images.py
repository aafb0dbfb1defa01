"""The images that probes use: those of a run, or of a config before training."""

import functools

import numpy as np

from jaxrobust import console, data
from jaxrobust.data import randomness, splits
from jaxrobust.data.augment import to_float
from jaxrobust.evaluation import batching
from jaxrobust.explanations import neighbours


class Images:
    """The images for probes that depend on the data only.

    Attributes:
        class_names: names of the classes.

    Args:
        title: title of the progress display.
        examples: number of images of a split to use, stratified by class; 0 for all.
    """

    def __init__(self, config, dataset: data.Dataset, examples: int, title: str):
        self.config, self.dataset = config, dataset
        self.class_names = tuple(dataset.class_names)
        self._examples, self._title = examples, title

    @functools.cached_property
    def train_ids(self) -> np.ndarray:
        """Indices of the training images that are used."""
        return self._subset(self.dataset.train.labels, "explain train")

    @functools.cached_property
    def train_pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """(pixels [n, D] in [0, 1], labels [n]) of these training images, see neighbours.shrink."""
        batch_size, split = self.config.eval.batch_size, self.dataset.train
        found = [
            neighbours.shrink(np.asarray(to_float(images)))
            for _, images in each(split, self.train_ids, batch_size, f"{self._title}, pixels")
        ]
        return np.concatenate(found), split.labels[self.train_ids]

    def _subset(self, labels, purpose: str) -> np.ndarray:
        rng = randomness.generator(self.config.eval.seed, purpose)
        return splits.stratified_subset(labels, self._examples, len(self.class_names), rng)


def each(split: data.Split, ids, batch_size: int, title: str):
    """(ids, images) block by block, with progress."""
    with console.progress(title, max(len(ids), 1), "images") as advance:
        for block, _, images in batching.each(split, ids, batch_size):
            yield block, images
            advance(len(block))
