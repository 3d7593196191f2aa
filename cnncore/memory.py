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


# Threads keep to their part of the batch, and so of each tensor, which is then in their caches at
# the next step, too. But where tensors of different sizes take turns in the same memory, one
# thread's part of one is another's part of the next. Where the two have no cache in common, lines
# then move to and fro, which can take ten times as long as writing them. What fits a last cache can
# afford to take turns only in lanes: the middle of the smaller tensor is where that of the larger
# was; and workspaces, which all threads read, have only each other's memory.
SPACIOUS = 32 << 20


class Lifetime(NamedTuple):
    """A block of `size` bytes that is needed from op `first` to op `last`, both included."""

    size: int
    first: int
    last: int

    @property
    def is_workspace(self) -> bool:
        """Whether one op alone needs it."""
        return self.first == self.last

    def meets(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


class Lane(NamedTuple):
    """Blocks that take turns, the largest of them first."""

    offset: int
    blocks: list[Lifetime]


def place(blocks: Sequence[Lifetime]) -> tuple[list[int], int]:
    """(offsets, bytes in all): blocks whose lifetimes meet never overlap."""
    offsets = [0] * len(blocks)
    by_size = sorted(range(len(blocks)), key=lambda i: -blocks[i].size)
    end = _in_lanes(blocks, [i for i in by_size if not blocks[i].is_workspace], offsets)
    end = _densely(blocks, [i for i in by_size if blocks[i].is_workspace], offsets, end)
    if end > SPACIOUS:
        end = _densely(blocks, by_size, offsets, 0)
    return offsets, end


def _room(size: int) -> int:
    lines = -(-size // LINE)
    return (lines + (APART - lines) % PAGE) * LINE


def _in_lanes(blocks: Sequence[Lifetime], which: Sequence[int], offsets: list[int]) -> int:
    """Each in the middle of the smallest lane that is free over its whole lifetime."""
    lanes: list[Lane] = []  # the smaller, the later
    end = 0
    for i in which:
        block = blocks[i]
        free = [lane for lane in lanes if not any(block.meets(other) for other in lane.blocks)]
        if free:
            lane = free[-1]
        else:
            lane = Lane(end, [])
            lanes.append(lane)
            end += _room(block.size)
        lane.blocks.append(block)
        offsets[i] = lane.offset + (lane.blocks[0].size - block.size) // 2 // LINE * LINE
    return end


def _densely(
    blocks: Sequence[Lifetime], which: Sequence[int], offsets: list[int], begin: int
) -> int:
    """Each at the lowest offset from `begin` on that is free over its whole lifetime."""
    placed: list[tuple[int, int, Lifetime]] = []  # (offset, end, block), by offset
    for i in which:
        block, offset = blocks[i], begin
        room = _room(block.size)
        for start, end, other in placed:
            if not block.meets(other):
                continue
            if offset + room <= start:
                break
            offset = max(offset, end)
        offsets[i] = offset
        placed.append((offset, offset + room, block))
        placed.sort(key=lambda entry: entry[0])
    return max((end for _, end, _ in placed), default=begin)
