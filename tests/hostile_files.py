"""Images and arrays that are broken, malicious, or easily misread."""

import io
import os
import socket
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image


def written(image: Image.Image, of: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, of, **options)
    return buffer.getvalue()


def noise(*shape, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width=6, height=4, depth=8, colour=2, *chunks: bytes, body: bytes | None = None) -> bytes:
    """A PNG of zeros, with chunks before its pixels."""
    body = bytes(height * (1 + 3 * width)) if body is None else body
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def images() -> dict[str, tuple[bytes, str]]:
    """By name of the file: content, and what the error says of it."""
    frames = [noise(64, 64, 3, seed=seed) for seed in range(5)]
    rgb, more = frames[0], {"save_all": True, "append_images": frames[1:]}
    bomb = zlib.compress(bytes(2**27))
    clear = Image.merge("RGBA", (*rgb.split(), noise(64, 64)))
    hole = Image.merge("LA", (noise(64, 64), Image.fromarray(np.full((64, 64), 254, np.uint8))))
    bmp = written(rgb, "BMP")
    palette = rgb.quantize(8)
    several, opaque = "has several frames", "has pixels that are not opaque"
    pixels, broken, deep = "claims more than 67,108,864 pixels", "cannot be read", "has more than 8 bits"
    return {
        "claims.png": (png(30_000, 30_000, body=b""), pixels),
        "claims_more.png": (png(2**31 - 1, 2**31 - 1, body=b""), pixels),
        "just_above.png": (png(8193, 8192, body=b""), pixels),
        "claims.gif": (b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(3) + b"," + bytes(9) + b"\x02", pixels),
        "claims.bmp": (
            bmp[:18] + struct.pack("<ii", 30_000, 30_000) + bmp[26:],
            pixels,
        ),
        "claims.ppm": (b"P6 30000 30000 255\n", pixels),
        "claims.tga": (bytes([0, 0, 2]) + bytes(9) + struct.pack("<HH", 60_000, 60_000) + b"\x18\x00", pixels),
        "claims.qoi": (b"qoif" + struct.pack(">II", 30_000, 30_000) + b"\x03\x00" + bytes(20), pixels),
        "text.png": (png(6, 4, 8, 2, chunk(b"zTXt", b"Comment\0\0" + bomb)), broken),
        "international.png": (png(6, 4, 8, 2, chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb)), broken),
        "texts.png": (png(6, 4, 8, 2, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 70), broken),
        "profile.png": (png(6, 4, 8, 2, chunk(b"iCCP", b"icc\0\0" + bomb)), broken),
        "frames.gif": (written(rgb, "GIF", **more), several),
        "frames.webp": (written(rgb, "WEBP", **more), several),
        "frames.png": (written(rgb, "PNG", **more), several),
        "frames.tiff": (written(rgb, "TIFF", **more), several),
        "frames.avif": (written(rgb, "AVIF", **more), several),
        "clear.png": (written(clear, "PNG"), opaque),
        "clear.webp": (written(clear, "WEBP", lossless=True), opaque),
        "clear.tif": (written(clear, "TIFF"), opaque),
        "hole.png": (written(hole, "PNG"), opaque),
        "palette.png": (written(palette, "PNG", transparency=palette.getpixel((0, 0))), opaque),
        "palette.gif": (written(palette, "GIF", transparency=palette.getpixel((0, 0))), opaque),
        "key.png": (written(rgb, "PNG", transparency=rgb.getpixel((2, 2))), opaque),
        "deep.png": (written(Image.fromarray(np.zeros((64, 64), np.uint16)), "PNG"), deep),
        "deep.pgm": (b"P5 6 4 65535\n" + bytes(48), deep),
        "float.tif": (written(Image.fromarray(np.zeros((64, 64), np.float32)), "TIFF"), deep),
        "integer.tif": (written(Image.fromarray(np.zeros((64, 64), np.int32)), "TIFF"), deep),
        "empty.png": (b"", broken),
        "zeros.tga": (bytes(1000), broken),
        "words.webp": (b"not an image", broken),
        "program.eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n", broken),
        **{
            f"cut.{of.lower()}": (written(noise(64, 64, 3), of)[:-3000], broken)
            for of in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "QOI")
        },
    }


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


STRANGE = {
    "pipe": os.mkfifo,
    "socket": bound_socket,
    "dangling link": lambda path: path.symlink_to(path.with_name("nothing")),
    "loop of links": lambda path: path.symlink_to(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


def npy(shape: str, descr: str = "|u1", body: bytes = b"", header: bytes | None = None) -> bytes:
    text = header or f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def sound_arrays() -> dict[str, np.ndarray]:
    return {
        "train_images": np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8),
        "train_labels": np.array([0, 1, 2, 2, 1, 0]),
        "test_images": np.random.default_rng(1).integers(0, 256, (3, 4, 5, 3), np.uint8),
        "test_labels": np.array([2, 2, 0]),
    }


def archives() -> dict[str, bytes]:
    """.npz files by what is wrong with them."""

    def zipped(method=zipfile.ZIP_STORED, **members: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, array in sound_arrays().items():
                content = io.BytesIO()
                np.save(content, array)
                archive.writestr(f"{name}.npy", members.pop(name, content.getvalue()))
        return buffer.getvalue()

    def with_bytes(content: bytes, at: int, value: bytes) -> bytes:
        """Writes at the same place of every local and central header."""
        changed = bytearray(content)
        for mark, offset in ((b"PK\3\4", at), (b"PK\1\2", at + 2)):
            place = content.find(mark)
            while place >= 0:
                changed[place + offset : place + offset + len(value)] = value
                place = content.find(mark, place + 1)
        return bytes(changed)

    def saved(**changes) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **sound_arrays() | changes)
        return buffer.getvalue()

    sound = zipped()
    return {
        "elements": zipped(train_images=npy("(100000000, 1000, 1000, 1)")),
        "elements, compressed": zipped(zipfile.ZIP_DEFLATED, train_images=npy("(100000000, 1000, 1000, 1)")),
        "negative": zipped(train_images=npy("(-6, -4, 5, 3)", body=bytes(360))),
        "overflow": zipped(train_labels=npy("(18446744073709551616,)", "<i8")),
        "empty type": zipped(train_labels=npy("(100000000000000,)", "<U0")),
        "short": zipped(train_images=npy("(6, 4, 5, 3)", body=bytes(100))),
        "long": zipped(train_images=npy("(6, 4, 5, 3)", body=bytes(400))),
        "nested": zipped(train_images=npy("", header=b"{'descr': " + b"[" * 3000 + b"}")),
        "no dict": zipped(train_images=npy("", header=b"5")),
        "code": zipped(train_images=npy("", header=b"__import__('os').abort()")),
        "version": zipped(train_images=b"\x93NUMPY\x09\x00" + bytes(100)),
        "no array": zipped(train_images=b"text"),
        "nothing": zipped(train_images=b""),
        "encrypted": with_bytes(sound, 6, b"\x01\x00"),
        "compression": with_bytes(sound, 8, b"\x63\x00"),
        "deflated not": with_bytes(sound, 8, b"\x08\x00"),
        "cut": sound[:-50],
        "flipped": sound.replace(b"NUMPY", b"NUMPX"),
        "checksum": with_bytes(sound, 14, b"\x00\x00\x00\x00"),
        "no zip": b"text",
        "no bytes": b"",
        "scalar labels": saved(train_labels=np.array(1)),
        "scalar images": saved(train_images=np.array(1)),
        "no labels": saved(train_labels=np.zeros((0,), int)),
        "objects": saved(train_labels=np.array([0, 1, 2, None, 1, 0], object)),
        "texts": saved(train_labels=np.array(list("012210"))),
        "records": saved(train_images=np.zeros((6, 4, 5), [("a", "u1"), ("b", "f4")])),
        "times": saved(train_labels=np.zeros(6, "M8[s]")),
        "one name": saved(class_names=np.array("cat")),
        "no names": saved(class_names=np.array([], str)),
        "a label beyond": saved(train_labels=np.array([0, 1, 2, 2, 1, 2**62])),
        "unsigned": saved(train_labels=np.array([0, 1, 2, 2, 1, 2**64 - 1], np.uint64)),
        "names without end": saved(class_names=np.arange(200_000)),
        "lacks one": sound.replace(b"test_labels", b"test_labelz"),
    }
