"""Exponential linear unit: y = x for x > 0, alpha (exp(x) - 1) otherwise (Clevert et al. 2016)."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, expect_rank, number
from .case import Array, Case, Draw, Inferred

IN_PLACE = {"y": "x", "dx": "dy"}


def infer(x: Shape, alpha: Any = 1.0) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    return Inferred({"y": x}, {"alpha": number("alpha", alpha, 0, 1e6)})


def infer_backward(dy: Shape, y: Shape, alpha: Any = 1.0) -> Inferred:
    expect("dy", dy, y, "the shape of y")
    return Inferred({"dx": y}, infer(y, alpha).attributes)


def forward(x: Array, alpha: float = 1.0) -> dict[str, Array]:
    return {"y": np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))}


def backward(dy: Array, y: Array, alpha: float = 1.0) -> dict[str, Array]:
    return {"dx": np.where(y > 0, dy, dy * (y + alpha))}


def winners(y: Array) -> Array:
    """Which side of the kink each element is on; with alpha = 1 only the curvature jumps there."""
    return y > 0


def forward_bound(x: Array, alpha: float = 1.0) -> dict[str, Array]:
    # Two ulp of expm1, half one each of alpha and the product.
    return {"y": np.where(x > 0, 0, 4 * abs(forward(x, alpha)["y"]))}


def backward_bound(dy: Array, y: Array, alpha: float = 1.0) -> dict[str, Array]:
    # alpha is rounded before y, which may be near -alpha, is added.
    below = abs(dy) * (alpha + 2 * abs(y + alpha))
    return {"dx": np.where(y > 0, 0, below)}


def cost(x: Shape, alpha: float = 1.0) -> tuple[int, int]:
    return 10 * prod(x), 2 * prod(x)


_LARGE = [0.0, -0.0, 1e-3, -1e-3, 30.0, -30.0, 100.0, -100.0, 1e4, -1e4, 1e30, -1e30]

CASES = [
    Case("one", {"x": (1, 1)}),
    Case("odd", {"x": Draw((3, 5), "distinct")}, {"alpha": 0.2}),
    Case("image", {"x": Draw((2, 5, 7, 3), "distinct")}),
    Case("rectified", {"x": Draw((4, 33), "distinct")}, {"alpha": 0.0}),
    Case("steep", {"x": Draw((4, 33), "distinct")}, {"alpha": 3.0}),
    Case("several chunks", {"x": Draw((3, 17001), "distinct")}),
    Case("range", {"x": np.linspace(-20.0, 1.0, 1001).reshape(7, 143)}, smooth=False),
    Case("large", {"x": np.array([_LARGE])}, smooth=False),
]
