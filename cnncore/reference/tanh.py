"""Hyperbolic tangent: y = tanh(x) (cs231n, neural networks 1)."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from . import sigmoid
from .case import Array, Inferred

IN_PLACE = {"y": "x", "dx": "dy"}


def infer(x: Shape) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    return Inferred({"y": x}, {})


def infer_backward(dy: Shape, y: Shape) -> Inferred:
    expect_rank("y", y, (1, 2, 3, 4), "(n, ...)")
    expect("dy", dy, y, "the shape of y")
    return Inferred({"dx": y}, {})


def forward(x: Array) -> dict[str, Array]:
    return {"y": np.tanh(x)}


def backward(dy: Array, y: Array) -> dict[str, Array]:
    return {"dx": dy * ((1 - y) * (1 + y))}


def forward_bound(x: Array) -> dict[str, Array]:
    # t / (t + 2) with t = expm1(2 |x|): three ulp of expm1, half one each of the rest.
    return {"y": 4 * abs(forward(x)["y"])}


def backward_bound(dy: Array, y: Array) -> dict[str, Array]:
    return {"dx": 3 * abs(backward(dy, y)["dx"])}


def cost(x: Shape) -> tuple[int, int]:
    return 12 * prod(x), 2 * prod(x)


CASES = sigmoid.CASES  # the same places are hard: near 0, the middle, and far out
