"""Where in an arena each tensor lies: offsets from lifetimes, a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# A load waits for a store that has not left for the cache yet if their addresses are equal modulo
# the page, whatever they are: y one cache line behind x makes y = max(x, 0) 1.5 times as slow as
# y elsewhere. So tensors of equal size, one behind the other, are apart by the golden section of
# a page, and any five of them ten lines or more from each other.
LINE = 64
PAGE = 4096 // LINE
APART = 25


class Lifetime(NamedTuple):
    """A block of `size` bytes that is needed from op `first` to op `last`, both included."""

    size: int
    first: int
    last: int


def place(blocks: Sequence[Lifetime]) -> tuple[list[int], int]:
    """(offsets, bytes in all): blocks whose lifetimes meet never overlap.

    Largest first, each at the lowest offset that is free over its whole lifetime."""
    offsets = [0] * len(blocks)
    placed: list[tuple[int, int, Lifetime]] = []  # (offset, end, block), by offset
    for i in sorted(range(len(blocks)), key=lambda i: -blocks[i].size):
        block = blocks[i]
        lines = -(-block.size // LINE)
        size = (lines + (APART - lines) % PAGE) * LINE
        offset = 0
        for start, end, other in placed:
            if other.last < block.first or block.last < other.first:
                continue
            if offset + size <= start:
                break
            offset = max(offset, end)
        offsets[i] = offset
        placed.append((offset, offset + size, block))
        placed.sort(key=lambda entry: entry[0])
    return offsets, max((end for _, end, _ in placed), default=0)
