"""Logistic sigmoid: y = 1 / (1 + exp(-x)) (cs231n, neural networks 1)."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Inferred

IN_PLACE = {"y": "x", "dx": "dy"}


def infer(x: Shape) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    return Inferred({"y": x}, {})


def infer_backward(dy: Shape, y: Shape) -> Inferred:
    expect_rank("y", y, (1, 2, 3, 4), "(n, ...)")
    expect("dy", dy, y, "the shape of y")
    return Inferred({"dx": y}, {})


def forward(x: Array) -> dict[str, Array]:
    e = np.exp(-abs(x))  # at most 1: nothing overflows
    return {"y": np.where(x < 0, e, 1) / (1 + e)}


def backward(dy: Array, y: Array) -> dict[str, Array]:
    return {"dx": dy * (y * (1 - y))}


def forward_bound(x: Array) -> dict[str, Array]:
    # Two ulp of exp, half one each of the sum and the division; the twin's own.
    return {"y": 4 * forward(x)["y"]}


def backward_bound(dy: Array, y: Array) -> dict[str, Array]:
    return {"dx": 2 * abs(backward(dy, y)["dx"])}


def cost(x: Shape) -> tuple[int, int]:
    return 10 * prod(x), 2 * prod(x)


_LARGE = [0.0, -0.0, 1e-3, -1e-3, 30.0, -30.0, 100.0, -100.0, 1e4, -1e4, 1e30, -1e30]

CASES = [
    Case("one", {"x": (1, 1)}),
    Case("odd", {"x": (3, 5)}),
    Case("image", {"x": (2, 5, 7, 3)}),
    Case("several chunks", {"x": (3, 17001)}),
    Case("range", {"x": np.linspace(-20.0, 20.0, 1001).reshape(7, 143)}),
    Case("large", {"x": np.array([_LARGE])}),
]
