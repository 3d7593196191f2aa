"""Maxout: y[i,j] = max over pieces p of x[i, p m + j] (Goodfellow et al. 2013). The first maximum
wins, NaN wins over everything."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, expect_rank, integer
from .case import Array, Case, Draw, Inferred

DTYPES = {"winner": "uint16"}


def infer(x: Shape, pieces: Any = 2) -> Inferred:
    expect_rank("x", x, (2,), "(n, pieces m)")
    count = integer("pieces", pieces, 1, 65535)
    if x[1] % count:
        raise ValueError(f"x has {x[1]} columns, which {count} pieces do not divide")
    y = (x[0], x[1] // count)
    return Inferred({"y": y, "winner": y}, {"pieces": count})


def infer_backward(dy: Shape, winner: Shape, pieces: Any = 2) -> Inferred:
    expect_rank("dy", dy, (2,), "(n, m)")
    expect("winner", winner, dy, "the shape of dy")
    count = integer("pieces", pieces, 1, 65535)
    return Inferred({"dx": (dy[0], count * dy[1])}, {"pieces": count})


def forward(x: Array, pieces: int = 2) -> dict[str, Array]:
    parts = x.reshape(len(x), pieces, -1)
    winner = parts.argmax(axis=1)  # of equals the first, and the first NaN before any number
    y = np.take_along_axis(parts, winner[:, None], axis=1)[:, 0]
    return {"y": y, "winner": winner.astype(np.uint16)}


def backward(dy: Array, winner: Array, pieces: int = 2) -> dict[str, Array]:
    won = winner[:, None] == np.arange(pieces)[:, None]
    return {"dx": np.where(won, dy[:, None], 0).reshape(len(dy), -1)}


def winners(winner: Array) -> Array:
    """Which piece each element is of."""
    return winner


def forward_bound(x: Array, pieces: int = 2) -> dict[str, Array]:
    y = np.zeros(infer(x.shape, pieces).results["y"])
    return {"y": y, "winner": y}


def backward_bound(dy: Array, winner: Array, pieces: int = 2) -> dict[str, Array]:
    return {"dx": np.zeros((len(dy), pieces * dy.shape[1]))}


def cost(x: Shape, pieces: int = 2) -> tuple[int, int]:
    return prod(x), prod(x) + prod(x) // pieces


def _case(name: str, n: int, m: int, pieces: int) -> Case:
    return Case(name, {"x": Draw((n, pieces * m), "distinct")}, {"pieces": pieces})


CASES = [
    _case("one", 1, 1, 1),
    _case("odd", 3, 5, 2),
    _case("tails", 7, 37, 3),
    _case("many pieces", 2, 3, 301),
    _case("several chunks", 70, 130, 4),
    _case("wide rows", 3, 9001, 2),
    Case("ties", {"x": np.zeros((3, 12))}, {"pieces": 3}, smooth=False),
    Case("negative", {"x": -np.arange(1.0, 41).reshape(2, 20)}, {"pieces": 4}),
    Case(
        "large",
        {"x": np.array([[1e30, -1e30, 1e4, -1e4, -1e30, 100.0, -1e4, -100.0]])},
        smooth=False,
    ),
]
