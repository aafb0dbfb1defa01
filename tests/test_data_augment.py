"""Augmentation against a slow numpy reference; every example on its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data.augment import augment, to_float

B, H, W, C = 400, 5, 6, 2


def keys(n=B, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def images(n=B):
    """Distinct positive pixels within an image, so that a crop tells its offset."""
    pixels = np.random.default_rng(0).permutation(H * W * C) + 1.0
    return np.broadcast_to((pixels / (H * W * C)).reshape(H, W, C), (n, H, W, C)).astype(np.float32)


run = functools.partial(jax.jit, static_argnames=("operations", "pad", "pad_mode"))(augment)


def crops(image, pad, pad_mode):
    """Every crop of an image: {(row, column): [H, W, C]}."""
    mode = {"zero": "constant", "reflect": "reflect"}[pad_mode]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    offsets = range(2 * pad + 1)
    return {(r, c): padded[r : r + H, c : c + W] for r in offsets for c in offsets}


@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
def test_crop_is_uniform_over_the_crops_of_the_reference(pad_mode):
    reference = crops(images(1)[0], 1, pad_mode)
    result = np.asarray(run(keys(), images(), operations=("crop",), pad=1, pad_mode=pad_mode))
    counts = [np.sum(np.all(result == crop, axis=(1, 2, 3))) for crop in reference.values()]
    assert sum(counts) == B
    # Binomial(400, 1/9) has a mean of 44.4 and a standard deviation of 6.3.
    np.testing.assert_allclose(counts, B / 9, atol=4 * 6.3)


def test_flip_mirrors_half_of_the_images_left_to_right():
    result = np.asarray(run(keys(), images(), operations=("flip",), pad=0, pad_mode="zero"))
    flipped = np.all(result == images()[:, :, ::-1], axis=(1, 2, 3))
    kept = np.all(result == images(), axis=(1, 2, 3))
    assert np.all(flipped ^ kept)
    assert abs(flipped.sum() - B / 2) < 4 * 10  # standard deviation 10


def test_operations_apply_in_the_order_given_and_draw_independently():
    def both(operations):
        return np.asarray(run(keys(), images(), operations=operations, pad=2, pad_mode="zero"))

    crop, flip = both(("crop",)), both(("flip",))
    flipped = np.any(flip != images(), axis=(1, 2, 3))
    # An operation draws the same with and without the other.
    np.testing.assert_array_equal(
        both(("crop", "flip")), np.where(flipped[:, None, None, None], crop[:, :, ::-1], crop)
    )
    flip_first = both(("flip", "crop"))
    np.testing.assert_array_equal(flip_first[~flipped], crop[~flipped])
    assert np.any(flip_first[flipped] != both(("crop", "flip"))[flipped])


def test_result_depends_on_the_own_key_alone():
    arguments = {"operations": ("crop", "flip"), "pad": 2, "pad_mode": "reflect"}
    noise = np.random.default_rng(1).random((8, H, W, C), np.float32)
    whole = run(keys(8), noise, **arguments)
    chosen = np.array([5, 2, 7])
    np.testing.assert_array_equal(whole[chosen], run(keys(8)[chosen], noise[chosen], **arguments))
    halves = [run(keys(8)[s], noise[s], **arguments) for s in (slice(0, 4), slice(4, 8))]
    np.testing.assert_array_equal(whole, jnp.concatenate(halves))


def test_nothing_to_do_is_the_identity():
    np.testing.assert_array_equal(run(keys(3), images(3), operations=(), pad=4, pad_mode="zero"), images(3))
    np.testing.assert_array_equal(run(keys(3), images(3), operations=("crop",), pad=0, pad_mode="zero"), images(3))


def test_to_float():
    pixels = np.arange(256, dtype=np.uint8)
    scaled = jax.jit(to_float)(pixels)
    assert scaled.dtype == jnp.float32 and scaled[0] == 0 and scaled[255] == 1
    np.testing.assert_allclose(scaled, pixels / np.float32(255), rtol=1e-7)
    np.testing.assert_array_equal(to_float(jnp.asarray(images(1))), images(1))
    with pytest.raises(TypeError, match="int32"):
        to_float(jnp.zeros(3, jnp.int32))


def test_what_the_host_has_done_is_passed_over():
    with_it = run(keys(9), images(9), operations=("resized_crop", "flip"), pad=0, pad_mode="zero")
    np.testing.assert_array_equal(with_it, run(keys(9), images(9), operations=("flip",), pad=0, pad_mode="zero"))
