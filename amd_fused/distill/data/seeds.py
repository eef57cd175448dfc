"""Random numbers that are functions of integers alone: SplitMix64, chained.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def mix_seed(*parts: int) -> int:
    """A well mixed seed between 0 and 2^63 - 1 of integers and their order."""
    return int(_chain(*parts)[0] >> np.uint64(1))


def words(seed: int, indices: Sequence[int], count: int) -> Words:
    """`count` random words for each index, `[count, len(indices)]`, each of (seed, index) alone."""
    index = np.asarray(indices, dtype=np.uint64)
    return np.stack([_chain(seed, index, number) for number in range(count)])


def _chain(*parts: int | Words) -> Words:
    state = np.zeros(1, np.uint64)
    for part in parts:
        if isinstance(part, int):
            part = np.array([part & 0xFFFF_FFFF_FFFF_FFFF], np.uint64)
        state = _next(state ^ part)
    return state


def _next(state: Words) -> Words:
    """The first output of the generator whose state this is; uint64 arrays wrap around."""
    state = state + _GOLDEN
    state = (state ^ (state >> _SHIFTS[0])) * _FACTORS[0]
    state = (state ^ (state >> _SHIFTS[1])) * _FACTORS[1]
    return state ^ (state >> _SHIFTS[2])
