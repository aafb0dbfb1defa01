"""Random crops and flips in JAX, one key per example, and the names of all operations on training images.

Each example has its own key, so the result for it depends neither on the rest of the batch nor on the number of
devices:

    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, positions)      # [B]
    images = augment(keys, to_float(images), operations=("crop", "flip"), pad=4, pad_mode="zero")
"""

import jax
import jax.numpy as jnp

from jaxrobust.errors import FieldError

OPERATIONS = ("crop", "flip", "resized_crop")  # a new one goes to the end: keys go by the index
HOST_OPERATIONS = ("resized_crop",)  # done where a streamed image is decoded, see `streaming`
PAD_MODES = ("zero", "reflect")


def to_float(images: jax.Array) -> jax.Array:
    """Pixels as float32 in [0, 1]: uint8 is divided by 255, float32 is returned as it is. Any shape."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    if images.dtype == jnp.float32:
        return images
    raise TypeError(f"images must be uint8 or float32, not {images.dtype}")


def augment(keys: jax.Array, images: jax.Array, *, operations: tuple[str, ...], pad: int, pad_mode: str) -> jax.Array:
    """Applies random operations to every image.

    Args:
        keys: [B] random keys, one per example.
        images: [B, H, W, C] float32 in [0, 1].
        operations: any of `OPERATIONS`, each at most once, applied in this order.
            `crop`: pad, then cut out H x W at a uniform offset. `flip`: mirror left to right with probability 1/2.
            Those of `HOST_OPERATIONS` have already been done on the host and are skipped.
        pad: pixels that `crop` adds on each side.
        pad_mode: what `crop` pads with: `zero` (black) or `reflect` (the image mirrored, its edge not repeated).
    """
    operation_of = {"crop": lambda key, image: _crop(key, image, pad, pad_mode), "flip": _flip}

    def augment_one(key, image):
        for operation in (name for name in operations if name not in HOST_OPERATIONS):
            # The key depends on the operation, not on its position: adding flips does not change the crops.
            own_key = jax.random.fold_in(key, OPERATIONS.index(operation))
            image = operation_of[operation](own_key, image)
        return image

    return jax.vmap(augment_one)(keys, images)


def check_streaming(operations: tuple[str, ...], streaming: bool, crop_scale: tuple[float, float]) -> None:
    """Raises FieldError unless the operations of the host are possible and come before those of the device."""
    for name in HOST_OPERATIONS:
        if name in operations and not streaming:
            remedy = "set data.streaming to True, or use crop"
            raise FieldError("data.augment", operations, f"{name!r} is for streamed images", remedy)
        if name in operations[1:]:
            raise FieldError("data.augment", operations, f"{name!r} is done first", "write it first")
    if len(crop_scale) != 2 or not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        problem = "is not a range of shares of an image's area"
        raise FieldError("data.crop_scale", crop_scale, problem, "give two rising numbers in (0, 1]")


def _crop(key: jax.Array, image: jax.Array, pad: int, pad_mode: str) -> jax.Array:
    mode = {"zero": "constant", "reflect": "reflect"}[pad_mode]
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    row, column = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def _flip(key: jax.Array, image: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)
