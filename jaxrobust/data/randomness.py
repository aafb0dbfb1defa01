"""Independent random streams, one per purpose: generators on the host, keys for the devices."""

import enum
import zlib

import jax
import numpy as np


class Purpose(enum.IntEnum):
    """What a key is for. The numbers are part of every result: never change one, and give a new purpose a new one."""

    INITIAL_WEIGHTS = 0
    TRAINING = 1
    EVALUATION = 2
    OVERFITTING_CHECK = 3
    OBSERVATION = 4
    HEAD_TRAINING = 5


def key(seed: int, purpose: Purpose) -> jax.Array:
    """The JAX key of a purpose, a function of its arguments alone."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A generator that depends only on its arguments.

    Streams of different purposes or indices are independent: drawing more from one does not change another.

    Args:
        seed: the user's seed, at least 0.
        purpose: what the stream is for, for example `order`.
        *index: which of the purpose's streams, for example the epoch.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    # crc32 and not hash(): the latter differs from process to process.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *index)))
