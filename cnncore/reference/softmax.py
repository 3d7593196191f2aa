"""Softmax: y[i,j] = exp(x[i,j]) / sum_j exp(x[i,j]), shifted by each row's maximum."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect_rank
from .case import Array, Case, Inferred


def infer(x: Shape) -> Inferred:
    expect_rank("x", x, (2,), "(n, classes)")
    return Inferred({"y": x}, {})


def forward(x: Array) -> dict[str, Array]:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return {"y": e / e.sum(axis=1, keepdims=True)}


def forward_bound(x: Array) -> dict[str, Array]:
    # Rounding x - max by half an ulp changes its exponential by that much, relatively.
    return {"y": (16 + 2 * np.ptp(x, axis=1, keepdims=True)) * forward(x)["y"]}


def cost(x: Shape) -> tuple[int, int]:
    return 10 * prod(x), 2 * prod(x)


CASES = [
    Case("one class", {"x": (3, 1)}),
    Case("ten", {"x": (17, 10)}),
    Case("many", {"x": (3, 5001)}),
    Case("large", {"x": np.array([[123.0, 456.0, 789.0], [-1e30, 0.0, 1e30]])}),
]
