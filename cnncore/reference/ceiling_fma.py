"""The ceiling of arithmetic: y = x, then `times` times y += factor y, in registers alone."""

from __future__ import annotations

from math import inf, prod
from typing import Any

from ..shapes import Shape, expect_rank, integer, number
from .case import Array, Case, Inferred


def infer(x: Shape, factor: Any, times: Any) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    by = number("factor", factor, -inf, inf, open_low=True, open_high=True)
    return Inferred({"y": x}, {"factor": by, "times": integer("times", times, 0)})


def forward(x: Array, factor: float, times: int) -> dict[str, Array]:
    y = x
    for _ in range(times):
        y = y + factor * y
    return {"y": y}


def forward_bound(x: Array, factor: float, times: int) -> dict[str, Array]:
    return {"y": 2 * times * forward(abs(x), abs(factor), times)["y"]}


def cost(x: Shape, factor: float, times: int) -> tuple[int, int]:
    return 2 * times * prod(x), 2 * prod(x)


CASES = [
    Case("one", {"x": (1, 1)}, {"factor": 0.5, "times": 3}),
    Case("odd", {"x": (3, 7)}, {"factor": -0.25, "times": 5}),
    Case("never", {"x": (2, 300)}, {"factor": 2.0, "times": 0}),
    Case("several chunks", {"x": (3, 1001)}, {"factor": 1e-3, "times": 100}),
]
