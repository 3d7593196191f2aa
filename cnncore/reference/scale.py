"""Multiplication by a constant in (0, 1]: y = factor x."""

from __future__ import annotations

from math import prod
from typing import Any

from ..shapes import Shape, expect_rank, number
from .case import Array, Case, Inferred

IN_PLACE = {"y": "x", "dx": "dy"}


def infer(x: Shape, factor: Any) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    return Inferred({"y": x}, {"factor": number("factor", factor, 0, 1, open_low=True)})


def infer_backward(dy: Shape, factor: Any) -> Inferred:
    return Inferred({"dx": dy}, infer(dy, factor).attributes)


def forward(x: Array, factor: float) -> dict[str, Array]:
    return {"y": factor * x}


def backward(dy: Array, factor: float) -> dict[str, Array]:
    return {"dx": factor * dy}


def forward_bound(x: Array, factor: float) -> dict[str, Array]:
    return {"y": 2 * abs(factor * x)}


def backward_bound(dy: Array, factor: float) -> dict[str, Array]:
    return {"dx": 2 * abs(factor * dy)}


def cost(x: Shape, factor: float) -> tuple[int, int]:
    return prod(x), 2 * prod(x)


CASES = [
    Case("one", {"x": (1, 1)}, {"factor": 0.5}),
    Case("odd", {"x": (3, 7)}, {"factor": 0.7}),
    Case("image", {"x": (2, 5, 7, 3)}, {"factor": 1.0}),
    Case("several chunks", {"x": (3, 17001)}, {"factor": 0.1}),
]
