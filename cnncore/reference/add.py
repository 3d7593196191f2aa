"""Addition of two branches: y = x0 + x1."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Inferred

IN_PLACE = {"y": "x0"}


def infer(x0: Shape, x1: Shape) -> Inferred:
    expect_rank("x0", x0, (1, 2, 3, 4), "(n, ...)")
    expect("x1", x1, x0, "the shape of x0")
    return Inferred({"y": x0}, {})


def infer_backward(dy: Shape) -> Inferred:
    expect_rank("dy", dy, (1, 2, 3, 4), "(n, ...)")
    return Inferred({"dx0": dy, "dx1": dy}, {})


def forward(x0: Array, x1: Array) -> dict[str, Array]:
    return {"y": x0 + x1}


def backward(dy: Array) -> dict[str, Array]:
    return {"dx0": dy, "dx1": dy}


def forward_bound(x0: Array, x1: Array) -> dict[str, Array]:
    return {"y": abs(x0) + abs(x1)}


def backward_bound(dy: Array) -> dict[str, Array]:
    return {"dx0": np.zeros_like(dy), "dx1": np.zeros_like(dy)}


def cost(x0: Shape, x1: Shape) -> tuple[int, int]:
    return prod(x0), 3 * prod(x0)


CASES = [
    Case("one", {"x0": (1, 1), "x1": (1, 1)}),
    Case("image", {"x0": (2, 5, 7, 3), "x1": (2, 5, 7, 3)}),
    Case("several chunks", {"x0": (3, 17001), "x1": (3, 17001)}),
]
