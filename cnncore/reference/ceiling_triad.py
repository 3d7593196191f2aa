"""The ceiling of memory, two arrays in and one out: y = x0 + factor x1 (McCalpin's STREAM)."""

from __future__ import annotations

from math import inf, prod
from typing import Any

from ..shapes import Shape, expect, expect_rank, flag, number
from .case import Array, Case, Inferred


def infer(x0: Shape, x1: Shape, factor: Any, streaming: Any = False) -> Inferred:
    expect_rank("x0", x0, (1, 2, 3, 4), "(n, ...)")
    expect("x1", x1, x0, "the shape of x0")
    by = number("factor", factor, -inf, inf, open_low=True, open_high=True)
    return Inferred({"y": x0}, {"factor": by, "streaming": flag("streaming", streaming)})


def forward(x0: Array, x1: Array, factor: float, streaming: bool = False) -> dict[str, Array]:
    return {"y": x0 + factor * x1}


def forward_bound(x0: Array, x1: Array, factor: float, streaming: bool = False) -> dict[str, Array]:
    return {"y": 2 * (abs(x0) + abs(factor * x1))}


def cost(x0: Shape, x1: Shape, factor: float, streaming: bool = False) -> tuple[int, int]:
    return 2 * prod(x0), 3 * prod(x0)


def _case(name: str, x: Shape, streaming: bool) -> Case:
    return Case(name, {"x0": x, "x1": x}, {"factor": 3.0, "streaming": streaming})


CASES = [
    _case("one", (1, 1), True),
    _case("odd", (5, 7), False),
    _case("several chunks", (9, 5001), False),
    _case("several chunks, streaming", (9, 5001), True),
]
