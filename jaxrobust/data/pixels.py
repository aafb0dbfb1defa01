"""From the bytes of a JPEG or PNG to pixels of the wanted size, in TensorFlow operations.

`decode` is for evaluation, and for training without random crops: the shorter side is resized to 256/224 of the wanted
size and the centre is cut out, as torchvision does (bilinear, antialiased); or the image is left as it is.
`random_crop` is for training: a random part of the image, resized.
"""

import contextlib
import os

# TensorFlow reads these once, at import. Here it only decodes: its C++ part should log only errors, and no notice about
# matrix products.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

# Otherwise TensorFlow would reserve the memory of every GPU. It raises if TensorFlow is already in use: then the user
# has configured it.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a random crop: its width over its height
_MARGIN = 256 / 224  # shorter side before the centre is cut out / after


def decode(contents, image_shape: tuple[int, int, int], resized: bool):
    """The image [H, W, C] uint8 in the bytes `contents` of a file; if it is not `resized`, it must have that shape."""
    image = decode_whole(contents, image_shape[2])
    if not resized:
        return tf.ensure_shape(image, image_shape)
    wanted = tf.constant(image_shape[:2])
    extent = tf.cast(tf.shape(image)[:2], tf.float32)
    # The smallest size that reaches the wanted size, margin included, in both directions.
    scale = tf.reduce_max(tf.round(tf.cast(wanted, tf.float32) * _MARGIN) / extent)
    size = tf.round(extent * scale)
    corner = tf.floor((size - tf.cast(wanted, tf.float32)) / 2)
    # The same as tf.image.resize and a slice of its result, but the parts outside of the slice are not computed.
    images = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=wanted,
        scale=size / extent,
        translation=-corner,
        kernel_type="triangle",
        antialias=True,
    )
    return tf.ensure_shape(_to_uint8(images[0]), image_shape)


def random_crop(contents, seed, image_shape: tuple[int, int, int], scale: tuple[float, float]):
    """A random part of the image in the bytes of a file, resized to `image_shape`: [H, W, C] uint8.

    Its share of the image's area is uniform in `scale`, its aspect ratio is between `ASPECT_RATIOS`. If ten draws do
    not fit into the image, it is the whole image.

    Args:
        contents: [] string.
        seed: [2] int64; the part is a function of it and of the image's size.
        scale: smallest and largest share of the area.
    """
    image = tf.cond(
        tf.io.is_jpeg(contents),
        lambda: _crop_jpeg(contents, seed, image_shape, scale),
        lambda: _crop_other(contents, seed, image_shape, scale),
    )
    return tf.ensure_shape(_to_uint8(image), image_shape)


def _crop_jpeg(contents, seed, image_shape, scale):
    """Decodes only the part; if it is several times larger than wanted, at a fraction of its resolution."""
    begin, size = _random_box(tf.image.extract_jpeg_shape(contents), seed, scale)

    def decode_fraction(ratio):
        # The decoder averages while it decodes. The rest of the reduction is at most by a factor of about 2, and is
        # done without antialiasing, which would halve the images per second.
        window = tf.concat([begin, size], 0) // ratio
        part = tf.image.decode_and_crop_jpeg(contents, window, channels=image_shape[2], ratio=ratio)
        return tf.image.resize(part, image_shape[:2])

    halvings = sum(tf.cast(tf.reduce_all(size // ratio >= image_shape[:2]), tf.int32) for ratio in (2, 4, 8))
    return tf.switch_case(halvings, [lambda ratio=ratio: decode_fraction(ratio) for ratio in (1, 2, 4, 8)])


def _crop_other(contents, seed, image_shape, scale):
    image = decode_whole(contents, image_shape[2])
    (top, left), (height, width) = map(tf.unstack, _random_box(tf.shape(image), seed, scale))
    return tf.image.resize(image[top : top + height, left : left + width], image_shape[:2], antialias=True)


def _random_box(shape, seed, scale):
    """(top, left), (height, width) of a random part of an image of that shape."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),  # no object that has to be in it
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=ASPECT_RATIOS,
        area_range=scale,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return begin[:2], size[:2]


def decode_whole(contents, channels: int):
    """The image [h, w, channels] uint8 in the bytes of a file, in its own size."""
    return tf.io.decode_image(contents, channels=channels, expand_animations=False)


def _to_uint8(image):
    # Bilinear interpolation stays in 0..255.
    return tf.cast(tf.round(image), tf.uint8)
