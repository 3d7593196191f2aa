"""Multiclass hinge loss, margin 1: sum over j != target of max(0, x_j - x_target + 1), its mean
over the batch weighted by the examples' weights (Weston and Watkins 1999; cs231n's SVM loss).

For small random weights it starts at classes - 1."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Draw, Inferred

DTYPES = {"target": "int64", "loss": "float64"}


def infer(x: Shape, target: Shape, weight: Shape | None = None) -> Inferred:
    """x (n, classes) scores, target (n,) class indices, weight (n,) of the examples."""
    expect_rank("x", x, (2,), "(n, classes)")
    expect("target", target, x[:1], "(n,)")
    if weight is not None:
        expect("weight", weight, x[:1], "(n,)")
    return Inferred({"loss": ()}, {})


def infer_backward(x: Shape, target: Shape, weight: Shape | None = None) -> Inferred:
    infer(x, target, weight)
    return Inferred({"dx": x}, {})


def _margins(x: Array, target: Array) -> Array:
    rows = np.arange(len(x))
    margins = x - x[rows, target][:, None] + 1
    margins[rows, target] = 0
    return margins


def forward(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    losses = np.maximum(_margins(x, target), 0).sum(axis=1)
    return {"loss": np.asarray((losses if weight is None else weight * losses).mean())}


def backward(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    dx = (_margins(x, target) > 0).astype(x.dtype)
    dx[np.arange(len(x)), target] = -dx.sum(axis=1)
    return {"dx": dx / len(x) if weight is None else dx * weight[:, None] / len(x)}


def winners(x: Array, target: Array) -> Array:
    """Which margins are violated."""
    return _margins(x, target) > 0


def forward_bound(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    right = abs(x[np.arange(len(x)), target])[:, None]
    sizes = 3 * (abs(x) + right + 1).sum(axis=1)
    return {"loss": np.asarray((sizes if weight is None else abs(weight) * sizes).mean())}


def backward_bound(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    return {"dx": 3 * abs(backward(x, target, weight)["dx"])}


def cost(x: Shape, target: Shape, weight: Shape | None = None) -> tuple[int, int]:
    return 3 * prod(x), prod(x)


def _case(name: str, n: int, classes: int, weighted: bool = False) -> Case:
    arrays: dict[str, Shape | Draw | Array] = {
        "x": (n, classes),
        "target": Draw((n,), "integers", classes),
    }
    return Case(name, arrays | ({"weight": Draw((n,), "positive")} if weighted else {}))


CASES = [
    _case("two", 5, 2),
    _case("ten", 67, 10),
    _case("weighted", 33, 19, weighted=True),
    _case("several chunks", 900, 10),
]
