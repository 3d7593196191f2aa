"""Philox4x32-10, the generator of dropout masks and of the order of examples.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Every draw is a
function of a 64-bit key (the seed) and a counter, so it can be made anywhere, in any order. The
compiled generator (src/rng.h) gives the same words."""

from __future__ import annotations

import numpy as np

from .case import Array

DROPOUT, SHUFFLE = 1, 2  # streams: each use of randomness has its own

_MASK = np.uint64(0xFFFFFFFF)
_LOW_32 = np.uint64(32)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)


def words(seed: int, blocks: Array, t: int, stream: int, ordinal: int = 0) -> Array:
    """(len(blocks), 4) uint32 words: one Philox block for each entry of `blocks` (uint64)."""
    block = blocks.astype(np.uint64)
    high = np.uint64((t >> 32 & 0xFFFF) << 16)
    even = np.empty((2, len(block)), np.uint64)  # words 0 and 2 of each block's counter
    odd = np.empty_like(even)  # 1 and 3
    even[0], even[1] = block & _MASK, t & 0xFFFFFFFF
    odd[0], odd[1] = (block >> _LOW_32 & np.uint64(0xFFFF)) | high, stream << 24 | ordinal
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        key = np.array([[k0], [k1]], np.uint64)
        products = (_MULTIPLIERS * even)[::-1]
        even, odd = products >> _LOW_32 ^ odd ^ key, products & _MASK
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return np.stack([even, odd], axis=1).reshape(4, -1).T.astype(np.uint32, order="C")


def draws_16(seed: int, count: int, t: int, stream: int, ordinal: int = 0) -> Array:
    """`count` 16-bit draws: element i is half i % 2 of word i % 8 // 2 of block i // 8."""
    blocks = words(seed, np.arange(-(-count // 8)), t, stream, ordinal)
    halves = np.stack([blocks & np.uint32(0xFFFF), blocks >> np.uint32(16)], axis=2)
    return halves.reshape(-1)[:count].astype(np.uint16)


def draws_64(seed: int, count: int, t: int, stream: int, ordinal: int = 0, first: int = 0) -> Array:
    """`count` 64-bit draws from number `first` on: number i is words 2 (i % 2) and 2 (i % 2) + 1 of
    block i // 2."""
    blocks = words(seed, np.arange(first // 2, -(-(first + count) // 2)), t, stream, ordinal)
    draws = blocks.astype("<u4", copy=False).view("<u8").astype(np.uint64, copy=False)
    return draws.reshape(-1)[first % 2 :][:count]
