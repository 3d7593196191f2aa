"""Average pooling over NHWC images: the mean of the pixels of each window that lie in the image;
padding does not count. Gradients of overlapping windows add up (cs231n, pooling layer)."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Padding, Shape, expect, pair, pooling
from .case import Array, Case, Inferred


def infer(x: Shape, size: Any = 2, stride: Any = None, padding: Any = 0) -> Inferred:
    """size, stride (default: size) and padding as in `shapes`; padding smaller than the window."""
    y, attributes = pooling(x, size, stride, padding)
    return Inferred({"y": y}, attributes)


def infer_backward(
    dy: Shape, x: Shape, size: Any = 2, stride: Any = None, padding: Any = 0
) -> Inferred:
    results, attributes = infer(x, size, stride, padding)
    expect("dy", dy, results["y"], "(n, p, q, c)")
    return Inferred({"dx": x}, attributes)


def _bordered(x: Array, padding: Padding) -> Array:
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


def _window_sums(x: Array, size: Any, stride: Any, padding: Any) -> Array:
    """(n, p, q, c)"""
    bordered = _bordered(x, padding)
    windows = np.lib.stride_tricks.sliding_window_view(bordered, size, axis=(1, 2))
    sums: Array = windows[:, :: stride[0], :: stride[1]].sum(axis=(-2, -1))
    return sums


def _pixels(x: Array, size: Any, stride: Any, padding: Any) -> Array:
    """How many pixels of each window lie in the image: (1, p, q, 1)."""
    return _window_sums(np.ones((1, *x.shape[1:3], 1), x.dtype), size, stride, padding)


def forward(x: Array, size: Any = 2, stride: Any = None, padding: Any = 0) -> dict[str, Array]:
    a = infer(x.shape, size, stride, padding).attributes
    return {"y": _window_sums(x, **a) / _pixels(x, **a)}


def backward(
    dy: Array, x: Array, size: Any = 2, stride: Any = None, padding: Any = 0
) -> dict[str, Array]:
    a = infer(x.shape, size, stride, padding).attributes
    share = dy / _pixels(x, **a)
    dx = _bordered(np.zeros_like(x), a["padding"])
    for r in range(a["size"][0]):
        for s in range(a["size"][1]):
            pixels = dx[:, r :: a["stride"][0], s :: a["stride"][1]]
            pixels[:, : dy.shape[1], : dy.shape[2]] += share
    top, _, left, _ = a["padding"]
    return {"dx": dx[:, top : top + x.shape[1], left : left + x.shape[2]]}


def forward_bound(
    x: Array, size: Any = 2, stride: Any = None, padding: Any = 0
) -> dict[str, Array]:
    terms = prod(infer(x.shape, size, stride, padding).attributes["size"])
    return {"y": (terms + 2) * forward(abs(x), size, stride, padding)["y"]}


def backward_bound(
    dy: Array, x: Array, size: Any = 2, stride: Any = None, padding: Any = 0
) -> dict[str, Array]:
    a = infer(x.shape, size, stride, padding).attributes
    windows = prod(-(-a["size"][axis] // a["stride"][axis]) for axis in (0, 1))
    return {"dx": (windows + 2) * backward(abs(dy), x, size, stride, padding)["dx"]}


def cost(x: Shape, size: Any = 2, stride: Any = None, padding: Any = 0) -> tuple[int, int]:
    y = infer(x, size, stride, padding).results["y"]
    return prod(y) * prod(pair("size", size)), prod(x) + prod(y)


def _case(name: str, x: Shape, **attributes: Any) -> Case:
    return Case(name, {"x": x}, attributes)


CASES = [
    _case("one", (1, 1, 1, 1), size=1),
    _case("2x2", (2, 6, 4, 3)),
    _case("floors", (2, 7, 5, 17)),
    _case("overlapping", (2, 7, 9, 5), size=3, stride=2),
    _case("padded", (2, 6, 5, 4), size=3, stride=2, padding=1),
    _case("gaps", (2, 7, 8, 19), size=2, stride=3),
    _case("disjoint and padded", (2, 8, 7, 17), size=3, padding=1),
    _case("per axis", (2, 8, 9, 3), size=(2, 3), stride=(1, 2), padding=(1, 0)),
    _case("one side", (1, 5, 6, 2), size=3, stride=2, padding=((2, 0), (0, 1))),
    _case("same", (7, 5, 6, 2), size=3, stride=2, padding="same"),
    _case("same, stride 1", (2, 5, 4, 9), size=(3, 2), stride=1, padding="same"),
    _case("gaps", (2, 9, 8, 3), size=2, stride=3),
    _case("whole image", (3, 4, 5, 33), size=(4, 5)),
    _case("larger than the image", (2, 3, 2, 5), size=5, stride=1, padding=4),
    _case("large", (1, 40, 33, 2), size=(40, 33)),
    Case(
        "large values",
        {"x": np.array([1e30, -1e30, 3e30, 1.0]).reshape(1, 2, 2, 1)},
        smooth=False,  # smooth, but beyond the reach of a difference
    ),
]
