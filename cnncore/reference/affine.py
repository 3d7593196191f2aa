"""Affine layer: y = x w + b, x read as (n, d) (cs231n assignment 1)."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Inferred


def infer(x: Shape, w: Shape, b: Shape | None = None) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    expect_rank("w", w, (2,), "(d, m)")
    expect("w", w, (prod(x[1:]), w[1]), "(elements of one example of x, m)")
    if b is not None:
        expect("b", b, (w[1],), "(m,)")
    return Inferred({"y": (x[0], w[1])}, {})


def infer_backward(dy: Shape, x: Shape, w: Shape) -> Inferred:
    expect("dy", dy, infer(x, w).results["y"], "(n, m)")
    return Inferred({"dx": x, "dw": w, "db": dy[1:]}, {})


def forward(x: Array, w: Array, b: Array | None = None) -> dict[str, Array]:
    y = x.reshape(len(x), -1) @ w
    return {"y": y if b is None else y + b}


def backward(dy: Array, x: Array, w: Array) -> dict[str, Array]:
    dw = x.reshape(len(x), -1).T @ dy
    return {"dx": (dy @ w.T).reshape(x.shape), "dw": dw, "db": dy.sum(axis=0)}


def forward_bound(x: Array, w: Array, b: Array | None = None) -> dict[str, Array]:
    size = forward(abs(x), abs(w), None if b is None else abs(b))["y"]
    return {"y": (len(w) + 2) * size}


def backward_bound(dy: Array, x: Array, w: Array) -> dict[str, Array]:
    size = backward(abs(dy), abs(x), abs(w))
    length = {"dx": w.shape[1]}
    return {name: (length.get(name, len(x)) + 2) * value for name, value in size.items()}


def cost(x: Shape, w: Shape, b: Shape | None = None) -> tuple[int, int]:
    return 2 * x[0] * prod(w), prod(x) + prod(w) + x[0] * w[1]


def _case(name: str, n: int, d: int, m: int, bias: bool = True) -> Case:
    return Case(name, {"x": (n, d), "w": (d, m)} | ({"b": (m,)} if bias else {}))


def _long(name: str, n: int, d: int, m: int) -> Case:
    """Most of x is 0: the bound of a full sum as long would also allow for mistakes."""
    place = np.add.outer(3 * np.arange(n), np.arange(d))
    x = np.where(place % 10 == 0, np.cos(place), 0)
    return Case(name, {"x": x, "w": (d, m), "b": (m,)})


CASES = [
    _case("one", 1, 1, 1),
    _case("odd", 3, 5, 7),
    _case("no bias", 5, 4, 3, bias=False),
    _case("tiles and tails", 55, 33, 70),
    _case("split reduction", 197, 19, 10),
    _case("several panels", 50, 130, 200),
    _case("columns far apart", 270, 512, 70),
    _case("in parts, several panels", 600, 65, 460),
    _case("in parts, fewer panels", 600, 65, 310),
    _case("one output", 37, 70, 1),
    _case("one output, no bias", 9, 16, 1, bias=False),
    _case("two outputs, in parts", 600, 133, 2),
    _case("three outputs", 9, 50, 3),
    _case("four outputs", 130, 200, 4),
    _case("six outputs", 45, 110, 6),
    _case("ten outputs", 45, 67, 10),
    _case("ten outputs, in parts", 600, 133, 10),
    _case("two inputs", 37, 2, 90),
    _case("seven examples", 7, 130, 120),
    _case("four inputs", 11, 4, 130),
    _case("six outputs of few inputs, last rows apart", 300, 20, 6),
    _case("four outputs of few inputs, last rows apart", 300, 3, 4),
    _case("across, one strip, long sums", 15, 262, 1030),
    _case("across, two strips of examples", 79, 1283, 653),
    _case("across, from copies", 48, 256, 390),
    _case("few examples", 4, 150, 70),
    _case("one example", 1, 100, 33),
    _case("one example, many weights", 1, 403, 659),
    _case("two parts", 40, 530, 150),
    _case("two parts of many examples", 300, 513, 70),
    _case("one example, many weights, two parts", 1, 563, 602),
    _long("long sums", 39, 2051, 69),
    _long("rows far apart", 40, 2048, 3),
    Case("flattens", {"x": (4, 3, 2, 5), "w": (30, 9), "b": (9,)}),
]
