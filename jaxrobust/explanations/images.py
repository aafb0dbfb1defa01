"""The images that probes look at: those of a run, or of a config before anything is trained."""

import functools

import numpy as np

from jaxrobust import blocks, console, data
from jaxrobust.data import randomness, splits
from jaxrobust.data.augment import to_float
from jaxrobust.explanations import neighbours


class Images:
    """Data that probes of data alone can look at.

    Attributes:
        class_names: of the classes.

    Args:
        title: of the progress shown.
        examples: how many images of a split are looked at, stratified; 0 for all.
    """

    def __init__(self, config, dataset: data.DataSet, examples: int, title: str):
        self.config, self.dataset = config, dataset
        self.class_names = tuple(dataset.class_names)
        self._examples, self._title = examples, title

    @functools.cached_property
    def train_ids(self) -> np.ndarray:
        """The training images that are looked at."""
        return self._subset(self.dataset.train.labels, "explain train")

    @functools.cached_property
    def train_pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """(pixels [n, D] in [0, 1], labels [n]) of training images, see neighbours.shrink."""
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
        for block, _, images in blocks.each(split, ids, batch_size):
            yield block, images
            advance(len(block))
