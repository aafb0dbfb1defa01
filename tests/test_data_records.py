"""Streamed sets: the same images and labels as in memory, an index that is made once, damage said in one line."""

import contextlib
import io
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from jaxrobust import data, parallel
from jaxrobust.data import batches, streaming
from jaxrobust.data.sources import tfds as source  # first: it sets what TensorFlow reads at import
from jaxrobust.errors import FieldError

import tensorflow as tf  # isort: skip
import tensorflow_datasets as tfds  # isort: skip
from PIL import Image

from jaxrobust.data import pixels, records

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
    SHAPE, ENCODING = SHAPE, "png"
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

    SHAPE, ENCODING = (None, None, 3), "jpeg"
    SPLITS = (("train", slice(20)), ("validation", slice(10)), ("test", slice(10, 14)))

    def _generate_examples(self, part, name):
        for i in range(*part.indices(20)):
            label = -1 if name == "test" else LABELS[i]
            yield i, {"image": io.BytesIO(jpeg(WAVES[i])), "label": label, "text": ""}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder of the sets above; do not change it."""
    folder = tmp_path_factory.mktemp("prepared")
    with source._quiet():
        for builder in (Fixed, Undeclared, Varied):
            config = tfds.download.DownloadConfig(num_shards=3)
            builder(data_dir=folder).download_and_prepare(download_config=config)
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy of it for one test, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return pathlib.Path(shutil.copytree(prepared, tmp_path / "sets"))


def load(folder, name="fixed", **options):
    return data.load(f"tfds:{name}", data_dir=str(folder), **{"streaming": True} | options)


def shards(folder, split="train", name="fixed"):
    return sorted((folder / name / "1.0.0").glob(f"*-{split}.tfrecord*"))


@pytest.mark.parametrize("name", ["fixed", "undeclared"])
def test_streamed_is_resident(folder, name):
    resident = load(folder, name, streaming=False, validation_per_class=4)
    streamed = load(folder, name, validation_per_class=4)
    assert len(shards(folder, name=name)) == 3
    assert streamed.streamed and not resident.streamed
    assert streamed.class_names == resident.class_names and streamed.image_shape == SHAPE
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(streamed, split), getattr(resident, split)
        assert ours.images.shape == theirs.images.shape and ours.images.dtype == theirs.images.dtype
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(np.asarray(ours.images), theirs.images)


def test_selecting_reads_nothing(folder):
    split = load(folder).train
    for file in shards(folder):
        file.unlink()
    part = split.take(np.array([3, 49, 3])).take(slice(1, 3)).take(np.array([True, False]))
    assert part.images.shape == (1, *SHAPE) and part.labels.tolist() == [49 % 3]
    with pytest.raises(FieldError, match=r"^data.name = 'tfds:fixed': cannot be read \(FileNotFoundError"):
        np.asarray(part.images)
    for index in (0, (slice(1), slice(2))):
        with pytest.raises(TypeError):
            part.images[index]


def test_each_device_decodes_its_own_share_of_each_batch(folder, monkeypatch):
    split, decoded = load(folder).test, []
    decode = records.RecordImages.__array__

    def spy(images, *arguments, **options):
        decoded.append(len(images))
        return decode(images, *arguments, **options)

    monkeypatch.setattr(records.RecordImages, "__array__", spy)
    mesh, seen = parallel.make_mesh(), []
    for batch in batches.padded_batches(split, 16):
        images, labels = parallel.shard((batch["images"], batch["labels"]), mesh)
        np.testing.assert_array_equal(labels, LABELS[50 + batch["ids"]])
        seen.append(np.asarray(images)[batch["mask"]])
    assert decoded == [2] * 8 * 2  # two batches of two images a device
    np.testing.assert_array_equal(np.concatenate(seen), IMAGES[50:])


def test_kept_back_labels_are_not_the_test_set(folder):
    streamed = load(folder, "varied", image_size=16)
    assert len(streamed.test) == 10 and streamed.test.labels.tolist() == LABELS[:10].tolist()


def test_resizing_for_evaluation_is_that_of_torchvision(folder):
    images = np.asarray(load(folder, "varied", image_size=16).train.images)
    assert images.shape == (20, 16, 16, 3)
    for ours, wave in zip(images, WAVES, strict=True):
        whole = Image.open(io.BytesIO(jpeg(wave)))
        short = min(whole.size)
        width, height = (round(side * 18 / short) for side in whole.size)  # 18 = round(16 * 256 / 224)
        left, top = (width - 16) // 2, (height - 16) // 2
        theirs = whole.resize((width, height), Image.BILINEAR).crop((left, top, left + 16, top + 16))
        assert np.abs(np.int32(ours) - np.asarray(theirs)).max() <= 2


def test_images_of_different_sizes_need_a_size(folder):
    streamed = load(folder, "varied")  # the first images of both splits are of one size
    message = r"^data.image_size = 0: leaves images as they are, and their shapes are 41,60,3 and 40,60,3; set it"
    with pytest.raises(FieldError, match=message):
        np.asarray(streamed.test.images[:2])
    with pytest.raises(FieldError, match=message):
        list(
            streaming.train_batches(
                streamed.train,
                np.array([[0, 1]]),
                first_step=0,
                seed=0,
                share=slice(2),
                operations=(),
                crop_scale=(0.08, 1.0),
            )
        )


class Progress:
    """Counts how often files are indexed."""

    def __init__(self):
        self.titles, self.share = [], 0

    @contextlib.contextmanager
    def __call__(self, title, total, unit):
        self.titles.append(title)
        yield lambda amount: setattr(self, "share", self.share + amount / total)


def test_index_is_made_once_and_anew_when_files_change(folder, tmp_path):
    progress = Progress()
    labels = load(folder, progress=progress).train.labels
    assert progress.titles == ["tfds:fixed: indexing 3 files, once"] * 2  # train and test
    assert progress.share == pytest.approx(2)
    np.testing.assert_array_equal(load(folder, progress=progress).train.labels, labels)
    assert len(progress.titles) == 2

    os.utime(shards(folder)[1])
    load(folder, progress=progress)
    assert len(progress.titles) == 3
    load(folder, progress=progress)
    assert len(progress.titles) == 3

    for index in (tmp_path / "cache" / "jaxrobust").glob("*.npz"):
        index.write_bytes(index.read_bytes()[:-100])
    np.testing.assert_array_equal(load(folder, progress=progress).train.labels, labels)
    assert len(progress.titles) == 5


def test_no_cache_folder_is_no_obstacle(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    np.testing.assert_array_equal(load(folder).test.images, IMAGES[50:])


def truncate(file):
    file.write_bytes(file.read_bytes()[:-10])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def rewrite(file, **features):
    """One record with some bytes as the image and a label."""
    feature = {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"no image"]))}
    feature |= {key: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])) for key, value in features.items()}
    with tf.io.TFRecordWriter(str(file)) as writer:
        for _ in range(17):
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def garble(file):
    """Whole records of what is no tf.Example."""
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(bytes(range(255, 0, -1)))


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, r"'.*00000-of-00003' cannot be read \(DataLossError: .*; prepare it anew"),
        (flip_a_bit, r"'.*00000-of-00003' cannot be read \(DataLossError: .*; prepare it anew"),
        (pathlib.Path.unlink, r"cannot be read \(NotFoundError: .*; prepare it anew"),
        (lambda file: rewrite(file), r"'.*00000-of-00003' cannot be read \(InvalidArgumentError: .*label"),
        (garble, r"'.*00000-of-00003' cannot be read \(\w+Error: .*; prepare it anew"),
        (lambda file: rewrite(file, label=3), r"training labels hold 3 \(at index 0\)"),
        (lambda file: file.write_bytes(b""), r"split 'train' holds 33 examples, not the promised 50"),
    ],
)
def test_damaged_files_are_said_in_one_line(folder, damage, message):
    damage(shards(folder)[0])
    with pytest.raises(FieldError, match=rf"^data.name = 'tfds:fixed': {message}") as error:
        load(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_what_is_no_image_is_said_when_it_is_looked_at(folder):
    rewrite(shards(folder)[0], label=0)
    images = load(folder).train.images
    np.testing.assert_array_equal(images[17:], IMAGES[17:50])
    with pytest.raises(FieldError, match=r"^data.name = 'tfds:fixed': cannot be read \(InvalidArgumentError") as error:
        np.asarray(images)
    assert "\n" not in str(error.value)


def test_a_file_that_shrinks_while_it_is_used(folder):
    images = load(folder).train.images
    truncate(shards(folder)[2])
    np.testing.assert_array_equal(images[:49], IMAGES[:49])
    with pytest.raises(FieldError, match=r"has become shorter; restore it"):
        np.asarray(images[49:].payloads())


def test_other_formats_than_tfrecord(folder):
    info = folder / "fixed" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "parquet"}))
    with pytest.raises(FieldError, match=r"is stored as parquet.*--file_format=tfrecord"):
        load(folder)


def test_files_elsewhere_than_on_a_disk(folder):
    files = [f"ram://{file.name}" for file in shards(folder)]
    for file, there in zip(shards(folder), files, strict=True):
        tf.io.gfile.copy(str(file), there, overwrite=True)
    index = records.load_index(files, "remote", data.sources.no_progress)
    images = records.RecordImages.of("remote", files, index, SHAPE, resized=False)
    np.testing.assert_array_equal(images[np.array([40, 2])], IMAGES[[40, 2]])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "digits"}, r"^data.streaming = True: 'digits' can only be read into memory; set data.streaming"),
        ({"streaming": False, "image_size": 32}, r"^data.image_size = 32: only streamed images are resized"),
        ({"image_size": -1}, r"^data.image_size = -1: is negative"),
    ],
)
def test_what_cannot_be_streamed(options, message):
    with pytest.raises(FieldError, match=message):
        data.load(**{"name": "tfds:fixed", "streaming": True} | options)


# Pixel (row, column) holds its own place, so that a crop tells where it was.
PLACES = np.stack([*np.indices((64, 128)), np.zeros((64, 128))], axis=-1).astype(np.uint8)


def crops(scale, number=300):
    """(top, left, bottom, right) of random crops of PLACES, read off their pixels, to within a pixel or two."""
    contents = tf.io.encode_png(PLACES)
    crop = tf.function(lambda seed: pixels.random_crop(contents, seed, (64, 64, 3), scale))
    images = np.stack([crop(tf.constant([5, position], tf.int64)) for position in range(number)])
    return np.concatenate([images[:, 0, 0, :2], images[:, -1, -1, :2]], axis=1).astype(float)


def test_random_crops_have_the_promised_areas_and_ratios():
    top, left, bottom, right = crops((0.25, 0.75)).T
    height, width = bottom - top + 1, right - left + 1
    area, ratio = height * width / (64 * 128), width / height
    assert 0.22 < area.min() < 0.3 and 0.6 < area.max() < 0.8
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.4
    assert top.min() <= 2 and bottom.max() >= 61 and left.min() <= 2 and right.max() >= 125
    assert len(np.unique(left)) > 30


def test_a_crop_that_cannot_be_is_the_whole_image():
    assert (np.abs(crops((1.0, 1.0), 2) - [0, 0, 63, 127]) <= 1).all()


@pytest.mark.parametrize("side", [40, 100, 300, 700])  # decoded at a fraction of 1, 2, 8 and 8
def test_large_jpegs_are_shrunk_without_aliasing(side):
    """Fine stripes of 0 and 255 are grey from afar; one pixel in several would be black or white."""
    rows, columns = np.indices((side, side))
    contents = jpeg(255 * ((rows + columns) % 2) if side > 40 else rows * 5)
    image = pixels.random_crop(contents, tf.constant([0, 0], tf.int64), (32, 32, 3), (1.0, 1.0)).numpy().astype(float)
    if side > 40:
        assert np.abs(image - 127.5).max() < 3
    else:
        assert np.abs(image[:, 0, 0] - (np.arange(32) * 40 / 32 + 0.125) * 5).max() < 5
