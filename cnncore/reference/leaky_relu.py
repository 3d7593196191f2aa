"""Leaky rectified linear unit: y = slope x for x < 0, x otherwise (Maas et al. 2013; cs231n)."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, expect_rank, number
from .case import Array, Case, Draw, Inferred

IN_PLACE = {"y": "x", "dx": "dy"}


def infer(x: Shape, slope: Any = 0.01) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    return Inferred({"y": x}, {"slope": number("slope", slope, 0, 1, open_high=True)})


def infer_backward(dy: Shape, y: Shape, slope: Any = 0.01) -> Inferred:
    expect("dy", dy, y, "the shape of y")
    return Inferred({"dx": y}, infer(y, slope).attributes)


def forward(x: Array, slope: float = 0.01) -> dict[str, Array]:
    return {"y": np.where(x < 0, slope * x, x)}


def backward(dy: Array, y: Array, slope: float = 0.01) -> dict[str, Array]:
    return {"dx": np.where(y > 0, dy, slope * dy)}


def winners(y: Array) -> Array:
    """Which side of the kink each element is on."""
    return y > 0


def forward_bound(x: Array, slope: float = 0.01) -> dict[str, Array]:
    return {"y": 2 * abs(forward(x, slope)["y"])}


def backward_bound(dy: Array, y: Array, slope: float = 0.01) -> dict[str, Array]:
    return {"dx": 2 * abs(backward(dy, y, slope)["dx"])}


def cost(x: Shape, slope: float = 0.01) -> tuple[int, int]:
    return 2 * prod(x), 2 * prod(x)


CASES = [
    Case("one", {"x": (1, 1)}),
    Case("odd", {"x": Draw((3, 5), "distinct")}, {"slope": 0.2}),
    Case("image", {"x": Draw((2, 5, 7, 3), "distinct")}),
    Case("no slope", {"x": Draw((4, 33), "distinct")}, {"slope": 0.0}),
    Case("several chunks", {"x": Draw((3, 17001), "distinct")}),
    Case("values", {"x": np.array([[0.0, -0.0, 1e30, -1e30, 3.0, -2.0]])}, smooth=False),
]
