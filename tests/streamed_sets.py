"""Small TFDS sets in ArrayRecord files: of one size, of a size not declared, of different sizes.

The fixture `folder` of conftest.py is a folder that holds them.
"""

import io

import numpy as np
from PIL import Image

from jaxrobust import data
from jaxrobust.data.sources import tfds as source

import tensorflow_datasets as tfds  # isort: skip

SHAPE = (7, 6, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (70, *SHAPE), np.uint8)
LABELS = np.arange(70) % 3
WAVES = [np.indices((40 + i, 60)).sum(0) * 2 for i in range(20)]  # smooth, each of another height


def jpeg(pixels_2d):
    """[H, W] in 0..255 as RGB in the bytes of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(np.uint8(pixels_2d)).convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()


class Fixed(tfds.core.GeneratorBasedBuilder):
    """PNGs of one size in several files."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE = SHAPE
    ENCODING = "png"
    SPLITS = (("train", slice(50)), ("test", slice(50, 70)))

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.SHAPE, encoding_format=self.ENCODING),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "emu"]),
            "text": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, _):
        return {name: self._generate_examples(part, name) for name, part in self.SPLITS}

    def _generate_examples(self, part, _):
        for i in range(*part.indices(70)):
            yield i, {"image": IMAGES[i], "label": LABELS[i], "text": "x" * i}


class Undeclared(Fixed):
    """The same, the size not declared."""

    SHAPE = (None, None, 3)


class Varied(Fixed):
    """JPEGs of different sizes. The labels of the test split are kept back, as those of ImageNet are."""

    SHAPE = (None, None, 3)
    ENCODING = "jpeg"
    SPLITS = (("train", slice(20)), ("validation", slice(10)), ("test", slice(10, 14)))

    def _generate_examples(self, part, name):
        for i in range(*part.indices(20)):
            label = -1 if name == "test" else LABELS[i]
            yield i, {"image": io.BytesIO(jpeg(WAVES[i])), "label": label, "text": ""}


def prepare(folder):
    """Writes all of them, each split in three files."""
    with source._quiet():
        for builder in (Fixed, Undeclared, Varied):
            config = tfds.download.DownloadConfig(num_shards=3)
            builder(data_dir=folder, file_format="array_record").download_and_prepare(download_config=config)


def load(folder, name="fixed", **options):
    return data.load(f"tfds:{name}", data_dir=str(folder), **{"streaming": True} | options)


def shards(folder, split="train", name="fixed"):
    return sorted((folder / name / "1.0.0").glob(f"*-{split}.array_record*"))


def blank(file):
    """Zeros in place of what the file holds."""
    file.write_bytes(bytes(file.stat().st_size))
