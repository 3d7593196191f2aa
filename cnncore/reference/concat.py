"""Concatenation of two branches along the last axis, the channels: y[..., :c0] = x0, then x1."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Inferred


def infer(x0: Shape, x1: Shape) -> Inferred:
    for name, shape in (("x0", x0), ("x1", x1)):
        expect_rank(name, shape, (2, 4), "(n, c) or (n, h, w, c)")
    expect("x1", x1, (*x0[:-1], x1[-1]), "the shape of x0 but for the channels")
    return Inferred({"y": (*x0[:-1], x0[-1] + x1[-1])}, {})


def infer_backward(dy: Shape, x0: Shape, x1: Shape) -> Inferred:
    expect("dy", dy, infer(x0, x1).results["y"], "the shape of x0 with the channels of both")
    return Inferred({"dx0": x0, "dx1": x1}, {})


def forward(x0: Array, x1: Array) -> dict[str, Array]:
    return {"y": np.concatenate([x0, x1], axis=-1)}


def backward(dy: Array, x0: Array, x1: Array) -> dict[str, Array]:
    c0 = x0.shape[-1]
    return {"dx0": dy[..., :c0], "dx1": dy[..., c0:]}


def forward_bound(x0: Array, x1: Array) -> dict[str, Array]:
    return {"y": np.zeros(infer(x0.shape, x1.shape).results["y"])}


def backward_bound(dy: Array, x0: Array, x1: Array) -> dict[str, Array]:
    return {"dx0": np.zeros_like(x0), "dx1": np.zeros_like(x1)}


def cost(x0: Shape, x1: Shape) -> tuple[int, int]:
    return 0, 2 * (prod(x0) + prod(x1))


CASES = [
    Case("one", {"x0": (1, 1), "x1": (1, 1)}),
    Case("features", {"x0": (3, 5), "x1": (3, 18)}),
    Case("image", {"x0": (2, 5, 7, 3), "x1": (2, 5, 7, 1)}),
    Case("narrow first", {"x0": (4, 3, 1, 1), "x1": (4, 3, 1, 33)}),
    Case("several chunks", {"x0": (3, 25, 23, 17), "x1": (3, 25, 23, 16)}),
    Case("a chunk a row", {"x0": (3, 17001), "x1": (3, 2)}),
]
