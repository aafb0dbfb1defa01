"""Image folders: every format, as the image is meant to be seen, or refused by name; nothing is lost in silence."""

import os
import pathlib

import numpy as np
import pytest
from hostile_files import STRANGE, images, noise, png, written
from PIL import ExifTags, Image

from jaxrobust import data, files
from jaxrobust.errors import FieldError

HOSTILE = images()


def folder(root, files: dict[str, bytes] | None = None, **classes: dict[str, bytes]) -> str:
    """Two classes with an image in both splits, and further files of training."""
    for split in ("train", "test"):
        for c in ("cat", "dog"):
            (root / split / c).mkdir(parents=True, exist_ok=True)
            (root / split / c / "a.png").write_bytes(written(noise(64, 64, 3), "PNG"))
    for c, content in ({"cat": files or {}} | classes).items():
        for name, of in content.items():
            (root / "train" / c / name).write_bytes(of)
    return f"folder:{root}"


def both(name: str):
    """The training images, as read into memory and as streamed."""
    return data.load(name).train.images, np.asarray(data.load(name, streaming=True).train.images)


@pytest.mark.parametrize("file", HOSTILE)
def test_hostile_images_are_refused_by_name(tmp_path, file):
    content, problem = HOSTILE[file]
    name = folder(tmp_path, {file: content})
    loads = (data.load, lambda name: np.asarray(data.load(name, streaming=True, image_size=8).train.images))
    for load in loads:
        with pytest.raises(FieldError) as error:
            load(name)
        assert f"train/cat/{file}' {problem}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_refused_by_name_and_not_waited_for(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    name = folder(tmp_path, {})
    STRANGE[kind](pathlib.Path("x.png"))
    os.rename("x.png", "train/cat/x.png")
    for streaming in (False, True):
        with pytest.raises(FieldError, match=r"train/cat/x.png' is no regular file"):
            data.load(name, streaming=streaming)


def test_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "memory", lambda: 4 * 64 * 64 * 3 - 1)
    with pytest.raises(FieldError, match=r"its images take 49,152 bytes, more than .* memory; set data.streaming"):
        data.load(folder(tmp_path))


def test_links_to_images_are_followed(tmp_path):
    name = folder(tmp_path, {})
    (tmp_path / "train" / "cat" / "b.png").symlink_to(tmp_path / "test" / "cat" / "a.png")
    assert data.load(name).train.counts(2).tolist() == [2, 1]


SMOOTH = Image.fromarray(np.add.outer(2 * np.arange(64), np.arange(64)).astype(np.uint8))  # 190 shades of grey
# The formats that Pillow writes, and how it keeps all or most of an image.
BEST = {of: {} for of in ("BLP", "BMP", "DDS", "DIB", "GIF", "MSP", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF")}
BEST |= {"XBM": {}, "AVIF": {"quality": 100}, "JPEG": {"quality": 100}, "MPO": {"quality": 100}}
BEST |= {"WEBP": {"lossless": True}, "ICO": {"sizes": [(64, 64)]}, "JPEG2000": {"irreversible": False}}
MODES = {"BLP": "P", "GIF": "P", "MSP": "1", "XBM": "1"}
# No rasters, one that Pillow only writes, one that it will no longer read, and one of an image in many sizes.
SKIPPED = ["BUFR", "EPS", "GRIB", "HDF5", "PDF", "WMF", "PALM", "IM", "ICNS"]


def test_a_folder_of_every_format(tmp_path):
    """Cats are stored in every format, dogs are the same images as PNGs: only what is no raster is skipped, aloud."""
    Image.init()
    suffix = {of: s for s, of in reversed(Image.EXTENSION.items())}
    assert {*BEST, *SKIPPED, "SPIDER"} == {*Image.SAVE}
    images = {of: SMOOTH.convert(MODES.get(of, "RGB")) for of in BEST}
    cat = {of + suffix[of]: written(images[of], of, **options) for of, options in BEST.items()}
    others = {of + suffix.get(of, ".palm"): b"%" for of in SKIPPED}
    dog = {f"{of}.png": written(image.convert("RGB"), "PNG") for of, image in images.items()}
    name = folder(tmp_path, cat | others, dog=dog)
    loaded = data.load(name)
    assert loaded.train.counts(2).tolist() == [1 + len(BEST)] * 2
    assert loaded.class_names == ("cat †", "dog")
    assert sum(int(part.split()[0]) for part in loaded.skipped[0].split(", ")) == len(SKIPPED)
    of_cat, of_dog = (loaded.train.images[loaded.train.labels == c].astype(int) for c in (0, 1))
    for of, ours, theirs in zip(sorted([*BEST, "a"]), of_cat, of_dog, strict=True):
        assert np.abs(ours - theirs).max() <= (3 if of in ("AVIF", "JPEG", "MPO") else 0), of
    np.testing.assert_array_equal(*both(name))


@pytest.mark.parametrize("of", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, of, orientation):
    """As a camera stores it: the pixels of an upright image, turned the other way, and which way in the EXIF data."""
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:16, :32], upright[32:, 48:] = (250, 30, 30), (20, 40, 250)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1)}
    stored |= {6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1)}
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "MPO": {"quality": 100}}
    content = written(Image.fromarray(stored[orientation]), of, exif=exif, **lossless.get(of, {"quality": 100}))
    for split in ("train", "test"):
        for c in ("cat", "dog"):
            (tmp_path / split / c).mkdir(parents=True)
            (tmp_path / split / c / f"a.{of.lower()}").write_bytes(content)
    for found in both(f"folder:{tmp_path}"):
        assert np.abs(found[0].astype(int) - upright).mean() < 4
    streamed = data.load(f"folder:{tmp_path}", streaming=True, image_size=16).train.images
    for _ in range(2):  # the second time the header is known
        resized = np.asarray(streamed)[0].astype(int)
        assert resized[0, 0, 0] > 200 > 60 > resized[-1, 0].max()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_are_no_reason_to_refuse_an_image(tmp_path):
    content = written(noise(64, 64, 3), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(20))
    assert len(data.load(folder(tmp_path, {"b.jpg": content})).train) == 3


@pytest.mark.parametrize(
    "case",
    ["1 PNG", "L PNG", "P PNG", "LA PNG", "RGBA PNG", "P GIF", "PA TIFF", "CMYK TIFF", "YCbCr TIFF", "LAB TIFF"]
    + ["RGBA WEBP", "L JPEG", "CMYK JPEG"],
)
def test_modes_are_right(tmp_path, case):
    mode, of = case.split()
    shown = SMOOTH.convert({"1": "1", "L": "L", "LA": "L"}.get(mode, "RGB"))
    image = shown.quantize(256).convert(mode) if mode in ("P", "PA") else shown.convert(mode)
    expected = np.asarray(image.convert("RGB") if mode == "LAB" else shown.convert("RGB")).astype(int)
    content = written(image, of, **{"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(of, {}))
    for found in both(folder(tmp_path, {f"b.{of.lower()}": content})):
        assert np.abs(found[1] - expected).max() <= (3 if of == "JPEG" or mode == "YCbCr" else 0)


def test_sixteen_bit_colours_keep_their_upper_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**16, (64, 64, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    for found in both(folder(tmp_path, {"b.png": png(64, 64, 16, 2, body=rows)})):
        np.testing.assert_array_equal(found[1], values >> 8)


def test_what_is_skipped_is_counted_by_class_and_marked(tmp_path, capsys):
    """The case of a class whose photographs are mostly of another type, beside files that are no images."""
    lost = {f"{i}.heic": b"" for i in range(12)} | {
        "noext": b"",
        "page.pdf": b"",
        "b.PNG": written(noise(64, 64, 3), "PNG"),
    }
    name = folder(tmp_path, lost, dog={".DS_Store": b"", "notes.txt": b"", "Thumbs.db": b""})
    (tmp_path / "test" / "cat" / "more").mkdir()
    (tmp_path / "test" / "cat" / "album.png").mkdir()
    for options in ({}, {"streaming": True}):
        loaded = data.load(name, **options)
        said = capsys.readouterr().err
        assert "cat: 12 .heic, 2 sub-folders, 1 .pdf, 1 others; dog: 2 hidden files, 1 .txt" in said
        assert loaded.class_names == ("cat †", "dog") and "marked †" in said
        assert loaded.skipped == ("12 .heic, 2 sub-folders, 1 .pdf, 1 others", "2 hidden files, 1 .txt")
        assert loaded.counts()["train"] == [2, 1]


def test_the_mark_follows_classes_that_are_merged_and_dropped(tmp_path):
    name = folder(tmp_path, {"a.heic": b""})
    for split in ("train", "test"):
        (tmp_path / split / "emu").mkdir()
        (tmp_path / split / "emu" / "a.png").write_bytes(written(noise(64, 64, 3), "PNG"))
    assert data.load(name, merge=["cat+dog"]).class_names == ("cat+dog †", "emu")
    dropped = data.load(name, drop=["cat"])
    assert dropped.class_names == ("dog", "emu") and dropped.skipped == ("", "")
