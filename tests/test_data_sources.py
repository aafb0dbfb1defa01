"""Each source gives back what was stored, and says in one line why it cannot."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from hostile_files import archives
from PIL import Image

from jaxrobust import data
from jaxrobust.data import sources
from jaxrobust.errors import FieldError

HOSTILE = archives()
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("digits", ("digits", "")),
        ("gaussians", ("gaussians", "")),
        ("tfds:imagenet_resized/32x32:0.1.0", ("tfds", "imagenet_resized/32x32:0.1.0")),
        ("arrays:C:/a.npz", ("arrays", "C:/a.npz")),
        ("folder:pets", ("folder", "pets")),
    ],
)
def test_check_name(name, parts):
    assert data.check_name(name) == parts


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("cifar10", "tfds:cifar10"),
        ("digit", "digits"),
        ("digits:", "digits"),
        ("tfds", None),
        ("tfds:", None),
        ("", None),
        ("a/b.npz", None),
    ],
)
def test_unknown_name(name, guess):
    with pytest.raises(FieldError, match=r"give one of digits, tfds:NAME, arrays:FILE.npz, .*gaussians") as error:
        data.load(name)
    assert guess is None or f"did you mean {guess}?" in str(error.value)


def test_a_source_is_one_entry(monkeypatch):
    def read(request):
        labels = np.arange(12) % int(request.argument)
        images = RNG.integers(0, 256, (12, 2, 3, 1), np.uint8)
        split = data.Split(images, labels)
        return sources.RawDataset(("a", "b", "c"), split, split)

    monkeypatch.setitem(sources.SOURCES, "toy", sources.Source(read, "CLASSES"))
    loaded = data.load("toy:3", validation_per_class=1)
    assert loaded.num_classes == 3 and len(loaded.train) == 9 and data.is_there("toy:3")
    assert data.describe("toy:3", validation_per_class=1) == data.described(loaded)
    with pytest.raises(FieldError, match="can only be read into memory"):
        data.load("toy:3", streaming=True)


def test_importing_and_reading_without_tensorflow():
    code = """if True:
        import sys
        from jaxrobust import data
        assert not {"tensorflow", "tensorflow_datasets", "grain", "sklearn", "PIL"} & set(sys.modules)
        data.load("digits")
        assert not {"tensorflow", "grain", "array_record"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits():
    digits = data.load("digits")
    assert digits.name == "digits" and digits.class_names == tuple("0123456789")
    assert digits.num_classes == 10 and digits.image_shape == (8, 8, 1)
    assert len(digits.train) == 1297 and len(digits.validation) == 0
    np.testing.assert_array_equal(digits.test.counts(10), 50)
    assert digits.train.images.dtype == np.uint8
    assert set(np.unique(digits.train.images)) == set(np.rint(np.arange(17) * 255 / 16).astype(int))


class TestArrays:
    def arrays(self, **changes):
        return {
            "train_images": RNG.integers(0, 256, (6, 4, 5, 3), np.uint8),
            "train_labels": np.array([0, 1, 2, 2, 1, 0]),
            "test_images": RNG.integers(0, 256, (2, 4, 5, 3), np.uint8),
            "test_labels": np.array([2, 2], np.uint8),
        } | changes

    def load(self, tmp_path, **arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return data.load(f"arrays:{tmp_path / 'set.npz'}")

    @pytest.mark.parametrize("names", [("cat", "dog", "emu"), (b"cat", b"dog", b"emu")])
    def test_round_trip(self, tmp_path, names):
        arrays = self.arrays(class_names=np.array(names))
        loaded = self.load(tmp_path, **arrays)
        assert loaded.class_names == ("cat", "dog", "emu")
        for split in ("train", "test"):
            np.testing.assert_array_equal(getattr(loaded, split).images, arrays[f"{split}_images"])
            np.testing.assert_array_equal(getattr(loaded, split).labels, arrays[f"{split}_labels"])

    def test_grey_floats_without_names(self, tmp_path):
        train, test = RNG.random((6, 4, 5)), RNG.random((2, 4, 5))
        loaded = self.load(tmp_path, **self.arrays(train_images=train, test_images=test))
        assert loaded.class_names == ("0", "1", "2") and loaded.image_shape == (4, 5, 1)
        np.testing.assert_array_equal(loaded.train.images[..., 0], train.astype(np.float32))

    @pytest.mark.parametrize("label", [7, 10**12])
    def test_absurd_label_is_not_taken_for_a_number_of_classes(self, tmp_path, label):
        with pytest.raises(FieldError, match=f"training labels hold {label}"):
            self.load(tmp_path, **self.arrays(train_labels=np.array([0, 1, 2, 2, 1, label])))

    def test_missing_array(self, tmp_path):
        arrays = self.arrays()
        del arrays["test_labels"]
        with pytest.raises(FieldError, match="has no array 'test_labels'"):
            self.load(tmp_path, **arrays)

    def test_python_objects(self, tmp_path):
        with pytest.raises(FieldError, match=r"cannot be read as an \.npz file of plain arrays"):
            self.load(tmp_path, **self.arrays(class_names=np.array(["cat", "dog", None], dtype=object)))

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_hostile_archives_are_refused_in_one_line(self, tmp_path, kind):
        (tmp_path / "set.npz").write_bytes(HOSTILE[kind])
        with pytest.raises(FieldError, match=r"^data.name = 'arrays:.*/set.npz': ") as error:
            data.load(f"arrays:{tmp_path / 'set.npz'}")
        assert "\n" not in str(error.value)

    def test_what_is_no_file_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "set.npz")
        for path in (tmp_path / "set.npz", tmp_path, "/dev/zero"):
            with pytest.raises(FieldError, match="there is no such file"):
                data.load(f"arrays:{path}")

    def test_other_files(self, tmp_path):
        np.save(tmp_path / "one.npy", np.zeros(3))
        (tmp_path / "text.npz").write_text("not a zip file")
        for file in ("one.npy", "text.npz"):
            with pytest.raises(FieldError, match=r"cannot be read as an \.npz file"):
                data.load(f"arrays:{tmp_path / file}")
        with pytest.raises(FieldError, match="there is no such file"):
            data.load(f"arrays:{tmp_path / 'none.npz'}")


class TestFolder:
    def write(self, root, images):
        """Writes {"train/cat/a.png": array}."""
        for path, pixels in images.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / path)

    def images(self, *shape):
        files = ("train/dog/b.png", "train/dog/a.png", "train/cat/z.PNG", "test/cat/1.png", "test/dog/1.png")
        return {file: RNG.integers(0, 256, shape, np.uint8) for file in files}

    @pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
    def test_round_trip(self, tmp_path, shape):
        images = self.images(*shape)
        self.write(tmp_path, images)
        (tmp_path / "train/dog/notes.txt").write_text("passed over")
        (tmp_path / "train/.cache").mkdir()
        loaded = data.load(f"folder:{tmp_path}")
        assert loaded.class_names == ("cat", "dog")
        assert loaded.image_shape == (4, 6, 3 if len(shape) == 3 else 1)
        np.testing.assert_array_equal(loaded.train.labels, [0, 1, 1])
        np.testing.assert_array_equal(loaded.test.labels, [0, 1])
        for image, file in zip(loaded.train.images, ("cat/z.PNG", "dog/a.png", "dog/b.png"), strict=True):
            np.testing.assert_array_equal(image.squeeze(), images[f"train/{file}"])

    def test_grey_among_colour_is_read_as_colour(self, tmp_path):
        grey, jpeg = np.full((4, 6), 9, np.uint8), np.full((4, 6, 3), 200, np.uint8)
        self.write(tmp_path, self.images(4, 6, 3) | {"test/cat/1.png": grey, "train/cat/y.jpeg": jpeg})
        loaded = data.load(f"folder:{tmp_path}")
        np.testing.assert_array_equal(loaded.test.images[0], np.full((4, 6, 3), 9))
        np.testing.assert_allclose(loaded.train.images[0], 200, atol=2)  # y.jpeg, which is lossy

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"test/dog/1.png": np.zeros((6, 4), np.uint8)}, r"test/dog/1.png' is 6 x 4 but .* is 4 x 6; resize"),
            ({"train/eel/1.png": np.zeros((4, 6), np.uint8)}, r"class 'eel' is in only one of train and test"),
            ({"train/cat/1.png": np.zeros((4, 6), np.uint16)}, r"train/cat/1.png' has more than 8 bits"),
        ],
    )
    def test_unusable_images(self, tmp_path, changes, message):
        self.write(tmp_path, self.images(4, 6) | changes)
        with pytest.raises(FieldError, match=message):
            data.load(f"folder:{tmp_path}")

    def test_broken_file(self, tmp_path):
        self.write(tmp_path, self.images(40, 60))
        file = tmp_path / "train/dog/a.png"
        for content in (file.read_bytes()[:1000], b"not an image"):
            file.write_bytes(content)
            with pytest.raises(FieldError, match=r"train/dog/a.png' cannot be read as an image; repair or remove it"):
                data.load(f"folder:{tmp_path}")

    @pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
    def test_streamed_is_resident(self, tmp_path, shape, capsys):
        self.write(tmp_path, self.images(*shape))
        resident, streamed = (data.load(f"folder:{tmp_path}", streaming=streaming) for streaming in (False, True))
        assert streamed.streamed and streamed.class_names == resident.class_names
        assert "found 3 training and 2 test images of 2 classes" in capsys.readouterr().err
        for split in ("train", "test"):
            ours, theirs = getattr(streamed, split), getattr(resident, split)
            np.testing.assert_array_equal(ours.images, theirs.images)
            np.testing.assert_array_equal(ours.labels, theirs.labels)

    def test_streamed_images_of_any_size(self, tmp_path):
        self.write(tmp_path, self.images(40, 60, 3) | {"test/cat/1.png": np.full((90, 50), 9, np.uint8)})
        name = f"folder:{tmp_path}"
        loaded = data.load(name, streaming=True, image_size=16)
        assert loaded.image_shape == (16, 16, 3)
        np.testing.assert_array_equal(np.asarray(loaded.test.images)[0], 9)
        with pytest.raises(FieldError, match=r"set data\.image_size"):
            data.load(name, streaming=True)
        (tmp_path / "train/dog/a.png").write_bytes(b"not an image")
        with pytest.raises(FieldError, match=r"train/dog/a.png' cannot be read .*; repair or") as error:
            np.asarray(loaded.train.images)
        assert "\n" not in str(error.value)

    def test_missing_folders_and_files(self, tmp_path):
        self.write(tmp_path, {"train/cat/1.png": np.zeros((4, 6), np.uint8)})
        with pytest.raises(FieldError, match=r"there is no folder '.*test'; arrange images as"):
            data.load(f"folder:{tmp_path}")
        for empty in ("train/dog", "test/cat", "test/dog"):
            (tmp_path / empty).mkdir(parents=True)
        with pytest.raises(FieldError, match="test images are missing"):
            data.load(f"folder:{tmp_path}")
        self.write(tmp_path, {"test/dog/1.png": np.zeros((4, 6), np.uint8)})
        with pytest.raises(FieldError, match=r"class 'dog' \(label 1\) has no training example"):
            data.load(f"folder:{tmp_path}")


class TestGaussians:
    mixture = data.Gaussians(
        dimension=50,
        means=(-0.1, 0.2, 0.0),
        stddevs=(1.0, 2.0, 0.5),
        priors=(0.2, 0.3, 0.5),
        train_examples=4000,
        test_examples=1000,
        pixels_per_unit=0.04,
    )

    def test_priors_and_moments(self):
        loaded = data.load("gaussians", gaussians=self.mixture)
        assert loaded.image_shape == (1, 50, 1) and loaded.class_names == ("class 0", "class 1", "class 2")
        assert loaded.train.images.dtype == np.float32
        for split, size in ((loaded.train, 4000), (loaded.test, 1000)):
            counts = split.counts(3)
            assert counts.sum() == size
            for label, (mean, stddev, prior) in enumerate(
                zip(self.mixture.means, self.mixture.stddevs, self.mixture.priors, strict=True)
            ):
                assert abs(counts[label] - size * prior) < 4 * np.sqrt(size * prior * (1 - prior))
                x = (split.images[split.labels == label].astype(np.float64) - 0.5) / self.mixture.pixels_per_unit
                # Standard errors of a mean, a standard deviation, and a correlation of two coordinates.
                assert abs(x.mean() - mean) < 4 * stddev / np.sqrt(x.size)
                assert abs(x.std() - stddev) < 4 * stddev / np.sqrt(2 * x.size)
                assert abs(np.corrcoef(x[:, 0, 0, 0], x[:, 0, 1, 0])[0, 1]) < 4 / np.sqrt(len(x))

    def test_draw_is_a_function_of_the_seed(self):
        one, same, other = (data.load("gaussians", gaussians=self.mixture, seed=s) for s in (1, 1, 2))
        np.testing.assert_array_equal(one.train.images, same.train.images)
        np.testing.assert_array_equal(one.test.labels, same.test.labels)
        assert not np.array_equal(one.train.images, other.train.images)
        assert not np.array_equal(one.train.images[:1000], one.test.images)

    def test_pixels_outside_the_box_name_the_scale_that_fits(self):
        wide = dataclasses.replace(self.mixture, pixels_per_unit=0.5)
        with pytest.raises(FieldError, match=r"^data.gaussians.pixels_per_unit = 0.5: .*; use at most 0\.\d+") as error:
            data.load("gaussians", gaussians=wide)
        fits = float(str(error.value).partition("at most ")[2].split()[0])
        fitted = data.load("gaussians", gaussians=dataclasses.replace(wide, pixels_per_unit=fits))
        assert max(np.abs(s.images - 0.5).max() for s in (fitted.train, fitted.test)) > 0.498

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("means", (0.1,), "match it"),
            ("priors", (0.5, 0.5), "means has 3 classes; match it"),
            ("priors", (0.5, 0.5, 0.5), "adds up to 1.5; make it add up to 1"),
        ],
    )
    def test_unusable_parameters(self, field, value, message):
        with pytest.raises(FieldError, match=message) as error:
            dataclasses.replace(self.mixture, **{field: value})
        assert str(error.value).startswith("data.gaussians.")

    def test_missing_mixture(self):
        with pytest.raises(FieldError, match=r"^data.gaussians = None"):
            data.load("gaussians")
