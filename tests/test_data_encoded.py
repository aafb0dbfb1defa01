"""Streamed sets: the same images and labels as in memory, labels that are read once, damage said in one line."""

import contextlib
import io
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from streamed_sets import IMAGES, LABELS, SHAPE, WAVES, blank, jpeg, load, shards

from jaxrobust import data
from jaxrobust.data import batches, encoded, streaming
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError


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
        blank(file)
    part = split.take(np.array([3, 49, 3])).take(slice(1, 3)).take(np.array([True, False]))
    assert part.images.shape == (1, *SHAPE) and part.labels.tolist() == [49 % 3]
    with pytest.raises(FieldError, match=r"^data.name = 'tfds:fixed': example 49 of split 'train' cannot be read"):
        np.asarray(part.images)
    for index in (0, (slice(1), slice(2))):
        with pytest.raises(TypeError):
            part.images[index]


def test_each_device_decodes_its_own_share_of_each_batch(folder, monkeypatch):
    split, decoded = load(folder).test, []
    decode = encoded.EncodedImages.__array__

    def spy(images, *arguments, **options):
        decoded.append(len(images))
        return decode(images, *arguments, **options)

    monkeypatch.setattr(encoded.EncodedImages, "__array__", spy)
    mesh, seen = parallel.make_mesh(), []
    for batch in batches.padded_batches(split, np.arange(len(split)), batch_size=16, devices=mesh.size):
        images, labels, ids = (np.asarray(array) for array in parallel.shard(batch, mesh))
        counted = labels >= 0
        np.testing.assert_array_equal(labels[counted], LABELS[50 + ids[counted]])
        seen.append(images[counted])
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
    message = r"^data.image_size = 0: keeps the sizes of images, but their shapes are 41,60,3 and 40,60,3; set it"
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
    """Counts how often labels are read from the files."""

    def __init__(self):
        self.titles, self.share = [], 0

    @contextlib.contextmanager
    def __call__(self, title, total, unit):
        self.titles.append(title)
        yield lambda amount: setattr(self, "share", self.share + amount / total)


def test_labels_are_read_once_and_anew_when_files_change(folder, tmp_path):
    progress = Progress()
    labels = load(folder, progress=progress).train.labels
    assert progress.titles == ["tfds:fixed: reading its labels, once"] * 2  # train and test
    assert progress.share == pytest.approx(2)
    np.testing.assert_array_equal(load(folder, progress=progress).train.labels, labels)
    assert len(progress.titles) == 2

    os.utime(shards(folder)[1])
    load(folder, progress=progress)
    assert len(progress.titles) == 3
    load(folder, progress=progress)
    assert len(progress.titles) == 3

    for cached in (tmp_path / "cache" / "jaxrobust").glob("*.npz"):
        cached.write_bytes(cached.read_bytes()[:-100])
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
    example = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    write(file, [example] * 17)


def write(file, records):
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def garble(file):
    """Whole records of what is no tf.Example."""
    write(file, [bytes(range(255, 0, -1))] * 17)


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, r"one of examples 0 to 49 cannot be read \(\w+: .*; restore it or prepare it again"),
        (flip_a_bit, r"one of examples 0 to 49 cannot be read \(\w+: .*; restore it or prepare it again"),
        (blank, r"one of examples 0 to 49 cannot be read \(\w+: .*; restore it or prepare it again"),
        (pathlib.Path.unlink, r"cannot be read \(FileNotFoundError: .*; restore it or prepare it again"),
        (lambda file: rewrite(file), r"one of examples 0 to 49 cannot be read \(InvalidArgumentError: .*label"),
        (garble, r"one of examples 0 to 49 cannot be read \(\w+Error: .*; restore it or prepare it again"),
        (lambda file: rewrite(file, label=3), r"training labels hold 3 \(at index 0\)"),
        (lambda file: write(file, []), r"one of examples 0 to 49 cannot be read \(\w+: .*; restore it"),
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
    message = r"^data.name = 'tfds:fixed': example 0 of split 'train' cannot be read \(InvalidArgumentError"
    with pytest.raises(FieldError, match=message) as error:
        np.asarray(images)
    assert "\n" not in str(error.value)


def test_a_file_that_is_damaged_while_it_is_used(folder):
    images = load(folder).train.images
    blank(shards(folder)[2])
    np.testing.assert_array_equal(images[:30], IMAGES[:30])
    with pytest.raises(FieldError, match=r"example 49 of split 'train' cannot be read .*; restore it"):
        np.asarray(images[30:][[0, 19]][1:])


def test_other_formats_than_array_record(folder):
    info = folder / "fixed" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(FieldError, match=r"as tfrecord, which cannot be streamed; set data.data_dir to") as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "digits"}, r"^data.streaming = True: 'digits' can only be read into memory; set data.streaming"),
        ({"image_size": -1}, r"^data.image_size = -1: is no whole number from 0"),
    ],
)
def test_what_cannot_be_streamed(options, message):
    with pytest.raises(FieldError, match=message):
        data.load(**{"name": "tfds:fixed", "streaming": True} | options)
