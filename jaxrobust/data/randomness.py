"""Independent host-side random streams, one per purpose."""

import zlib

import numpy as np


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
