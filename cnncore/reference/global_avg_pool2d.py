"""Global average pooling (Lin et al. 2013): the mean over all pixels of each channel."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Inferred


def infer(x: Shape) -> Inferred:
    expect_rank("x", x, (4,), "(n, h, w, c)")
    return Inferred({"y": (x[0], x[3])}, {})


def infer_backward(dy: Shape, x: Shape) -> Inferred:
    expect("dy", dy, infer(x).results["y"], "(n, c)")
    return Inferred({"dx": x}, {})


def forward(x: Array) -> dict[str, Array]:
    return {"y": x.mean(axis=(1, 2))}


def backward(dy: Array, x: Array) -> dict[str, Array]:
    pixels = x.shape[1] * x.shape[2]
    return {"dx": np.broadcast_to(dy[:, None, None, :] / pixels, x.shape).copy()}


def forward_bound(x: Array) -> dict[str, Array]:
    return {"y": (x.shape[1] * x.shape[2] + 2) * forward(abs(x))["y"]}


def backward_bound(dy: Array, x: Array) -> dict[str, Array]:
    return {"dx": 2 * backward(abs(dy), x)["dx"]}


def cost(x: Shape) -> tuple[int, int]:
    return prod(x), prod(x)


CASES = [
    Case("one", {"x": (1, 1, 1, 1)}),
    Case("odd", {"x": (3, 5, 7, 9)}),
    Case("wide", {"x": (2, 8, 8, 70)}),
]
