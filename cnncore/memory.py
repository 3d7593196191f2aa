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
# the next step, too. But where tensors of different sizes take turns in the same memory, the half
# of the threads that has one cache writes where the other half read before, and caches hand lines
# over, which can take ten times as long as writing them. So tensors take turns middle upon middle,
# in lanes, and workspaces, which all threads read, only with each other. That takes up to a third
# more memory: an arena that would not fit a last cache beside the parameters is placed densely.
LANES_UP_TO = 20 << 20


class Lifetime(NamedTuple):
    """A block of `size` bytes that is needed from op `first` to op `last`, both included."""

    size: int
    first: int
    last: int

    @property
    def of_one_op(self) -> bool:
        """Whether one op alone needs it, as a workspace."""
        return self.first == self.last

    def meets(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


class Lane(NamedTuple):
    """Blocks that take turns, the largest of them first."""

    offset: int
    blocks: list[Lifetime]


def place(blocks: Sequence[Lifetime]) -> tuple[list[int], int]:
    """(offsets, bytes in all): blocks whose lifetimes meet never overlap. In lanes, with workspaces
    behind them, or densely where that takes more than LANES_UP_TO bytes."""
    offsets = [0] * len(blocks)
    by_size = sorted(range(len(blocks)), key=lambda i: -blocks[i].size)
    end = _in_lanes(blocks, [i for i in by_size if not blocks[i].of_one_op], offsets)
    end = _densely(blocks, [i for i in by_size if blocks[i].of_one_op], offsets, end)
    if end > LANES_UP_TO:
        end = _densely(blocks, by_size, offsets, 0)
    return offsets, end


def _room(size: int) -> int:
    lines = -(-size // LINE)
    return (lines + (APART - lines) % PAGE) * LINE


def _in_lanes(blocks: Sequence[Lifetime], which: Sequence[int], offsets: list[int]) -> int:
    """Sets their offsets, each in the middle (but for a page) of the smallest lane that is free
    over its whole lifetime; returns the end of all."""
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
        beyond = lane.blocks[0].size - block.size
        offsets[i] = lane.offset + beyond // 2 // (PAGE * LINE) * (PAGE * LINE)
    return end


def _densely(
    blocks: Sequence[Lifetime], which: Sequence[int], offsets: list[int], begin: int
) -> int:
    """Sets their offsets, each the lowest from `begin` on that is free over its whole lifetime;
    returns the end of all."""
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
