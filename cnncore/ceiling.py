"""What this machine can do at best: multiply-adds a second, and bytes a second by working set.

Measured with kernels of our own tape, so with the team, the instruction set and the dtype that the
other kernels have. Nothing is chosen by what is found here; it is what shares are shares of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .plan import CONSTANTS, ITEM_SIZE, Moved, Op, Plan, Tensor
from .program import Program, Runner
from .reference.case import Array

ROUNDS = 7  # at least
# Bytes moved, from what the nearest caches hold to what only memory does.
SIZES = tuple(1 << e for e in (16, 18, 20, 22, 24, 25, 26, 27, 28))
# A probe of arithmetic: elements enough for many chunks of any vector length, a millisecond or two.
_ELEMENTS, _TIMES = 12 * 16 * 32, 20_000
ARITHMETIC_FLOPS = 2 * _ELEMENTS * _TIMES


@dataclass(frozen=True)
class Ceiling:
    """flops: floating-point operations a second, a multiply-add counting as two, in registers.
    Bytes a second for moving `sizes` bytes, the last of them too many for caches, by copies, which
    read one for each that they write, and by triads, which read two: each by the faster of ordinary
    and streaming stores, and in place, where they write over an argument."""

    dtype: str
    isa: str
    threads: int
    flops: float
    sizes: tuple[int, ...]
    copies: tuple[float, ...]
    triads: tuple[float, ...]
    copies_in_place: tuple[float, ...]
    triads_in_place: tuple[float, ...]

    def bandwidth(self, moved: Moved, in_place: bool = False) -> float:
        """Bytes a second for an op that moves so many. One that reads no more than it writes is
        compared with a copy, one that reads twice as much or more with the faster of copy and
        triad, and what lies between with what lies between."""
        copies, triads = [self.copies], [self.triads]
        if in_place:
            copies.append(self.copies_in_place)
            triads.append(self.triads_in_place)

        def best(ladders: list[tuple[float, ...]]) -> float:
            at = np.log2(max(moved.total, 1))
            return float(np.interp(at, np.log2(self.sizes), np.max(ladders, axis=0)))

        copy = best(copies)
        more = moved.read / moved.written - 1 if moved.written else 1.0
        return copy + min(max(more, 0.0), 1.0) * (max(copy, best(triads)) - copy)

    def beside(self, moved: int, shortest: Iterable[tuple[str, float]]) -> Ceiling:
        """This ceiling with the bandwidth of an op's own minute: the field and the shortest time
        of each probe of memory that moved as many bytes and ran by turns with it."""
        fields: dict[str, Any] = {f: (rate,) for f, rate in _rates(moved, shortest).items()}
        return replace(self, sizes=(moved,), **fields)

    def seconds(self, flops: float, moved: Moved, in_place: bool = False) -> float:
        """The least time for so many operations and for moving so many bytes: the longer of the
        two. in_place: whether results are written over arguments."""
        return max(flops / self.flops, moved.total / self.bandwidth(moved, in_place))

    def __str__(self) -> str:
        ladder = ", ".join(
            f"{_bytes(size)} {copy / 1e9:.0f}/{triad / 1e9:.0f}"
            for size, copy, triad in zip(self.sizes, self.copies, self.triads, strict=True)
        )
        return (
            f"ceiling of {self.threads} thread{'s' * (self.threads > 1)}, {self.isa}, "
            f"{self.dtype}: {self.flops / 1e9:.0f} GFLOP/s; GB/s of copy/triad by bytes moved: "
            f"{ladder}"
        )


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


@dataclass
class Alone:
    """Some ops in memory of their own, each run by itself as a step of a tape."""

    runner: Runner
    capacity: int

    @classmethod
    def of(
        cls, ops: Sequence[Op], dtype: str, isa: str, capacity: int = 1, constants: bytes = b""
    ) -> Alone:
        keep = tuple({id(t): t for op in ops for t in op.tensors.values()}.values())
        arena = tuple(t for t in keep if t.base != CONSTANTS)
        plan = Plan(list(ops), list(ops), capacity, dtype, isa, {}, arena, constants)
        return cls(Runner(Program(plan), {}), capacity)

    def steps(
        self, repeats: int, threads: int, op: int = 0, *, index: Array | None = None, lr: float = 0
    ) -> Array:
        """What each of `repeats` steps of this op took, in seconds, all in one run of the tape: a
        thread that starts late holds up the first alone."""
        if index is None:
            index = np.zeros(self.capacity, np.int64)
        sizes, rows = np.full(repeats, self.capacity), np.tile(index, repeats)
        rates, results = np.full(repeats, float(lr)), np.empty((repeats, 0))
        seconds = np.empty((repeats, 1))
        _, status, _ = self.runner.tape.run(
            sizes, rows, rates, 1, 0, results, op, op + 1, threads, op_seconds=seconds
        )
        if status != "ok":
            raise ValueError(f"{self.runner.program.kernel_ops[op].kernel} gave up: {status}")
        return seconds[:, 0]


def _best(alone: Alone, threads: int, op: int = 0, together: float = 0.02) -> float:
    """The shortest time of the op among steps that take so many seconds together."""
    once = alone.steps(3, threads, op).min()
    count = min(max(ROUNDS, round(together / max(once, 1e-7))), 1000)
    return float(min(alone.steps(count, threads, op).min() for _ in range(2)))


def arithmetic(dtype: str, isa: str) -> Alone:
    """The probe of multiply-adds: ARITHMETIC_FLOPS operations a step."""
    x, y = (Tensor(name, (1, _ELEMENTS), dtype) for name in "xy")
    settings = {"factor": 1e-6, "times": _TIMES}
    fma = Op("ceiling_fma", "forward", {"x": x}, {"y": y}, settings)
    alone = Alone.of([fma], dtype, isa)
    alone.runner.value(x)[...] = 1
    return alone


class MemoryProbe(NamedTuple):
    """An op that moves bytes and hardly computes. field: what of a Ceiling it counts for."""

    field: str
    alone: Alone
    op: int


def memory(dtype: str, isa: str, moved: int) -> Iterator[MemoryProbe]:
    """All probes of memory that move so many bytes."""
    for field, name, words, more in (
        ("copies", "ceiling_copy", ("x",), {}),
        ("triads", "ceiling_triad", ("x0", "x1"), {"factor": 0.5}),
    ):
        shape = (1, max(moved // (len(words) + 1) // ITEM_SIZE[dtype], 1))
        inputs = {word: Tensor(word, shape, dtype) for word in words}
        y = Tensor("y", shape, dtype)
        ops = [
            Op(name, "forward", inputs, {"y": result}, {"streaming": streaming} | more)
            for result, streaming in ((y, False), (y, True), (inputs[words[-1]], False))
        ]
        alone = Alone.of(ops, dtype, isa)
        for tensor in (*inputs.values(), y):
            alone.runner.value(tensor)[...] = 1
        for op, way in enumerate([field, field, f"{field}_in_place"]):
            yield MemoryProbe(way, alone, op)


def _rates(moved: int, shortest: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Bytes a second by field, from each probe's field and shortest time."""
    found: dict[str, float] = {}
    for field, seconds in shortest:
        found[field] = max(found.get(field, 0.0), moved / seconds)
    return found


def measure(dtype: str, isa: str, threads: int) -> Ceiling:
    """Takes some five seconds."""
    probe = arithmetic(dtype, isa)
    least = _best(probe, threads, together=0.3)
    ladder = [
        _rates(size, ((p.field, _best(p.alone, threads, p.op)) for p in memory(dtype, isa, size)))
        for size in SIZES
    ]
    fields = {field: tuple(step[field] for step in ladder) for field in ladder[0]}
    # Once more, seconds later: a processor may have been someone else's the first time.
    flops = ARITHMETIC_FLOPS / min(least, _best(probe, threads, together=0.3))
    return Ceiling(dtype, isa, threads, flops, SIZES, **fields)


@lru_cache(8)
def remembered(dtype: str, isa: str, threads: int) -> Ceiling:
    """`measure`, once a process for each dtype, instruction set and number of threads."""
    return measure(dtype, isa, threads)
