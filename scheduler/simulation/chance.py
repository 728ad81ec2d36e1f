"""Chance by counting: a number for (seed, purpose, copy, index) that is the same in whatever order it is asked for.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over numpy arrays: the state of a stream is its start plus the index times an
odd constant, so any element is computed alone. Streams start at numpy's own SeedSequence, which keeps them apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stream(seed: int, purpose: int, copy: int) -> np.uint64:
    """Start of one stream; ``seed``, ``purpose`` and ``copy`` are whole numbers from 0."""
    return np.uint64(np.random.SeedSequence(seed, spawn_key=(purpose, copy)).generate_state(1, np.uint64)[0])


def uniform(start: np.uint64 | NDArray[np.uint64], index: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """One number in [0, 1) for each ``index`` (from 0) of the stream that begins at ``start`` (one, or one per index)."""
    x = index.astype(np.uint64)
    x += np.uint64(1)
    x *= _STEP  # unsigned integers of arrays wrap, which is what is meant
    x += start
    x ^= x >> np.uint64(30)
    x *= _MIX_1
    x ^= x >> np.uint64(27)
    x *= _MIX_2
    x ^= x >> np.uint64(31)
    x >>= np.uint64(11)
    return x.astype(np.float64) * 2.0**-53
