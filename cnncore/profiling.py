"""Where a training step's time goes: each op's time, and its share of what the machine can do.

    print(model.profile(x, y, update=cnn.Adam(1e-3)))

The step runs as in training, and the clock is read behind each op. An op's limit is the longer of
its operations at the ceiling of multiply-adds and its bytes at the bandwidth of as many, with as
large a share of them read, both measured here (see `ceiling`). Bytes are those of every array that
the op reads or writes, once; an op whose arguments have left the caches since they were made cannot
reach the bandwidth of those that are still there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import ceiling
from .architecture import Architecture, Purpose, program
from .ceiling import Ceiling
from .inputs import Examples
from .plan import GRADIENTS, Op, op_bytes, op_cost
from .program import Batches, Runner
from .reference.case import Array
from .vector import aligned_zeros

ROUNDS = 7
_SECONDS = 1.0  # of all rounds together, for steps that are not longer


@dataclass(frozen=True)
class Row:
    """One op: the layer it belongs to, its median time, and what it had to do."""

    layer: str
    op: str
    seconds: float
    flops: int
    bytes: int
    limit: float  # the least seconds that this machine's ceiling allows

    @property
    def share(self) -> float:
        """Of the limit: 1 is as fast as can be."""
        return self.limit / self.seconds


@dataclass(frozen=True)
class Profile:
    """The ops of one step, the slowest first. step_seconds: median of whole steps, not taken apart.
    n: examples in the batch."""

    rows: tuple[Row, ...]
    step_seconds: float
    n: int
    ceiling: Ceiling

    def __str__(self) -> str:
        total = sum(row.seconds for row in self.rows)
        head = ("layer", "op", "us", "% of step", "GFLOP/s", "GB/s", "% of limit", "limited by")
        table = [head] + [
            (
                row.layer or "-",
                row.op,
                f"{row.seconds * 1e6:.1f}",
                f"{row.seconds / total:.1%}".rstrip("%"),
                f"{row.flops / row.seconds / 1e9:.1f}",
                f"{row.bytes / row.seconds / 1e9:.1f}",
                f"{row.share:.0%}".rstrip("%"),
                "FLOPs" if row.flops / self.ceiling.flops >= row.limit else "bytes",
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in table) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.rjust(width) if 2 <= i < 7 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
        limit = sum(row.limit for row in self.rows)
        return "\n".join(
            [
                *lines,
                f"step of {self.n} examples: {self.step_seconds * 1e3:.3f} ms, ops together "
                f"{total * 1e3:.3f} ms, of which the limits are {limit / total:.0%}",
                str(self.ceiling),
            ]
        )


def profile(
    architecture: Architecture, purpose: Purpose, vectors: Mapping[str, Array], examples: Examples,
    seed: int,
) -> Profile:  # fmt: skip
    """Runs steps of the plan on copies of the vectors, all on the same batch, with a learning rate
    of zero. Raises what a training step raises."""
    runner = Runner(program(architecture, purpose), _copies(architecture, purpose, vectors))
    runner.bind(examples.bindings)
    n = len(examples.x)
    start = time.perf_counter()
    runner.run(_steps(1, n, seed), seconds=0)
    once = time.perf_counter() - start
    count = min(max(1, round(_SECONDS / ROUNDS / 2 / once)), 200)
    steps = _steps(count, n, seed)
    whole, parts = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        runner.run(steps, seconds=0)
        whole.append((time.perf_counter() - start) / count)
        parts.append(runner.op_seconds(steps))
    medians = np.median(np.concatenate(parts), axis=0)
    found = ceiling.remembered(architecture.dtype, purpose.isa, runner.team)
    rows = [
        _row(runner, op, float(seconds), examples.bindings, found)
        for op, seconds in zip(runner.program.plan.ops, medians, strict=True)
    ]
    runner.release()
    rows.sort(key=lambda row: -row.seconds)
    return Profile(tuple(rows), float(np.median(whole)), n, found)


def _copies(
    architecture: Architecture, purpose: Purpose, vectors: Mapping[str, Array]
) -> dict[str, Array]:
    states = purpose.update.states if purpose.update else ()
    copies = {
        name: aligned_zeros(architecture.parameters.size, architecture.dtype)
        for name in (GRADIENTS, *states)
    }
    for name, vector in vectors.items():
        copies[name] = aligned_zeros(len(vector), architecture.dtype)
        copies[name][...] = vector
    return copies


def _steps(count: int, n: int, seed: int) -> Batches:
    return Batches(np.full(count, n), np.tile(np.arange(n), count), np.zeros(count), 1, seed)


def _row(runner: Runner, op: Op, seconds: float, given: Mapping[str, Array], found: Ceiling) -> Row:
    name = "host" if op.call else "+".join([f"{op.op}.{op.function}", *op.fused])
    flops = sum(op_cost(plain)[0] for plain in op.plain())
    moved = op_bytes(op, given)
    least = found.seconds(flops, moved, runner.program.in_place(op))
    return Row(op.layer, name, seconds, flops, moved.total, least)
