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


def words(seed: int, blocks: Array, t: int, stream: int, ordinal: int = 0) -> Array:
    """(len(blocks), 4) uint32 words: one Philox block for each entry of `blocks` (uint64)."""
    block = blocks.astype(np.uint64)
    high = np.uint64((t >> 32 & 0xFFFF) << 16)
    c0 = block & _MASK
    c1 = (block >> _LOW_32 & np.uint64(0xFFFF)) | high
    c2 = np.full_like(block, t & 0xFFFFFFFF)
    c3 = np.full_like(block, stream << 24 | ordinal)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c2 = (b >> _LOW_32) ^ c1 ^ np.uint64(k0), (a >> _LOW_32) ^ c3 ^ np.uint64(k1)
        c1, c3 = b & _MASK, a & _MASK
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def draws_16(seed: int, count: int, t: int, stream: int, ordinal: int = 0) -> Array:
    """`count` 16-bit draws: element i is half i % 2 of word i % 8 // 2 of block i // 8."""
    blocks = words(seed, np.arange(-(-count // 8)), t, stream, ordinal)
    halves = np.stack([blocks & np.uint32(0xFFFF), blocks >> np.uint32(16)], axis=2)
    return halves.reshape(-1)[:count].astype(np.uint16)


def draws_64(seed: int, count: int, t: int, stream: int, ordinal: int = 0) -> Array:
    """`count` 64-bit draws: element i is words 2 (i % 2) and 2 (i % 2) + 1 of block i // 2."""
    blocks = words(seed, np.arange(-(-count // 2)), t, stream, ordinal).astype(np.uint64)
    pairs = blocks.reshape(-1, 2)
    return (pairs[:, 0] | pairs[:, 1] << _LOW_32)[:count]
