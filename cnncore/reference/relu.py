"""Rectified linear unit: y = max(x, 0); the gradient at exactly 0 is 0, NaN is kept."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Draw, Inferred

IN_PLACE = {"y": "x", "dx": "dy"}


def infer(x: Shape) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    return Inferred({"y": x}, {})


def infer_backward(dy: Shape, y: Shape) -> Inferred:
    expect_rank("y", y, (1, 2, 3, 4), "(n, ...)")
    expect("dy", dy, y, "the shape of y")
    return Inferred({"dx": y}, {})


def forward(x: Array) -> dict[str, Array]:
    return {"y": np.maximum(x, 0)}


def backward(dy: Array, y: Array) -> dict[str, Array]:
    return {"dx": np.where(y > 0, dy, 0)}


def winners(y: Array) -> Array:
    """Which side of the kink each element is on."""
    return y > 0


def forward_bound(x: Array) -> dict[str, Array]:
    return {"y": np.zeros_like(x)}


def backward_bound(dy: Array, y: Array) -> dict[str, Array]:
    return {"dx": np.zeros_like(dy)}


def cost(x: Shape) -> tuple[int, int]:
    return prod(x), 2 * prod(x)


CASES = [
    Case("one", {"x": (1, 1)}),
    Case("odd", {"x": Draw((3, 5), "distinct")}),
    Case("image", {"x": Draw((2, 5, 7, 3), "distinct")}),
    Case("several chunks", {"x": Draw((3, 17001), "distinct")}),
    Case("values", {"x": np.array([[0.0, -0.0, 1e30, -1e30, 3.0, -2.0]])}, smooth=False),
]
