"""Max pooling over NHWC images. The first maximum in row order wins, padding never does, NaN wins
over everything; gradients of overlapping windows add up (cs231n, pooling layer)."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, pair, pooling
from .case import Array, Case, Draw, Inferred

DTYPES = {"winner": "uint16"}


def infer(x: Shape, size: Any = 2, stride: Any = None, padding: Any = 0) -> Inferred:
    """size, stride (default: size) and padding as in `shapes`; padding smaller than the window."""
    y, attributes = pooling(x, size, stride, padding)
    if prod(attributes["size"]) > 65535:
        raise ValueError(f"size must be at most 65535 pixels, not {attributes['size']}")
    return Inferred({"y": y, "winner": y}, attributes)


def infer_backward(
    dy: Shape, x: Shape, winner: Shape, size: Any = 2, stride: Any = None, padding: Any = 0
) -> Inferred:
    results, attributes = infer(x, size, stride, padding)
    expect("dy", dy, results["y"], "(n, p, q, c)")
    expect("winner", winner, results["y"], "(n, p, q, c)")
    return Inferred({"dx": x}, attributes)


def forward(x: Array, size: Any = 2, stride: Any = None, padding: Any = 0) -> dict[str, Array]:
    results, a = infer(x.shape, size, stride, padding)
    p, (rows, columns) = a["padding"], results["y"][1:3]
    bordered = np.pad(x, ((0, 0), (p[0], p[1]), (p[2], p[3]), (0, 0)), constant_values=-np.inf)
    y, winner = np.full(results["y"], -np.inf, x.dtype), np.zeros(results["y"], np.uint16)
    inside = np.zeros(results["y"], bool)  # a window of -inf is won by its first pixel in the image
    image = np.pad(np.ones(x.shape, bool), ((0, 0), (p[0], p[1]), (p[2], p[3]), (0, 0)))
    for r in range(a["size"][0]):
        for s in range(a["size"][1]):
            pixels = np.s_[:, r :: a["stride"][0], s :: a["stride"][1]]
            value = bordered[pixels][:, :rows, :columns]
            here = image[pixels][:, :rows, :columns]
            wins = here & (~inside | (value > y) | (np.isnan(value) & ~np.isnan(y)))
            y, winner = np.where(wins, value, y), np.where(wins, r * a["size"][1] + s, winner)
            inside |= here
    return {"y": y, "winner": winner.astype(np.uint16)}


def backward(
    dy: Array, x: Array, winner: Array, size: Any = 2, stride: Any = None, padding: Any = 0
) -> dict[str, Array]:
    a = infer(x.shape, size, stride, padding).attributes
    n, p, q, c = np.indices(dy.shape)
    rows = p * a["stride"][0] - a["padding"][0] + winner // a["size"][1]
    columns = q * a["stride"][1] - a["padding"][2] + winner % a["size"][1]
    dx = np.zeros_like(x)
    np.add.at(dx, (n, rows, columns, c), dy)
    return {"dx": dx}


def winners(winner: Array) -> Array:
    """Which pixel each window took."""
    return winner


def forward_bound(
    x: Array, size: Any = 2, stride: Any = None, padding: Any = 0
) -> dict[str, Array]:
    y = infer(x.shape, size, stride, padding).results["y"]
    return {"y": np.zeros(y), "winner": np.zeros(y)}


def backward_bound(
    dy: Array, x: Array, winner: Array, size: Any = 2, stride: Any = None, padding: Any = 0
) -> dict[str, Array]:
    window = prod(infer(x.shape, size, stride, padding).attributes["size"])
    return {"dx": window * backward(abs(dy), x, winner, size, stride, padding)["dx"]}


def cost(x: Shape, size: Any = 2, stride: Any = None, padding: Any = 0) -> tuple[int, int]:
    y = infer(x, size, stride, padding).results["y"]
    return prod(y) * prod(pair("size", size)), prod(x) + prod(y)


def _case(name: str, x: Shape, **attributes: Any) -> Case:
    return Case(name, {"x": Draw(x, "distinct")}, attributes)


CASES = [
    _case("one", (1, 1, 1, 1), size=1),
    _case("2x2", (2, 6, 4, 3)),
    _case("floors", (2, 7, 5, 17)),
    _case("overlapping", (2, 7, 9, 5), size=3, stride=2),
    _case("overlapping, with a tail", (2, 7, 6, 18), size=3, stride=2),
    _case("large windows overlap", (2, 15, 14, 3), size=9, stride=4),
    _case("padded", (2, 6, 5, 4), size=3, stride=2, padding=1),
    _case("gaps", (2, 7, 8, 19), size=2, stride=3),
    _case("disjoint and padded", (2, 8, 7, 17), size=3, padding=1),
    _case("per axis", (2, 8, 9, 3), size=(2, 3), stride=(1, 2), padding=(1, 0)),
    _case("same", (1, 5, 6, 2), size=3, stride=2, padding="same"),
    _case("whole image", (3, 4, 5, 33), size=(4, 5)),
    Case("ties", {"x": np.zeros((2, 4, 4, 3))}, {"size": 2}, smooth=False),
    Case("negative", {"x": -np.arange(1.0, 33).reshape(1, 4, 4, 2)}, {"size": 3, "padding": 1}),
]
