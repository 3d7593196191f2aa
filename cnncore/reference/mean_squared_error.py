"""Mean squared error over real targets (n, m): the mean over j of (x - target)^2, its mean over the
batch weighted by the examples' weights (cs231n, neural networks 2, regression)."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Draw, Inferred

DTYPES = {"loss": "float64"}


def infer(x: Shape, target: Shape, weight: Shape | None = None) -> Inferred:
    """x (n, m), target (n, m), weight (n,) of the examples."""
    expect_rank("x", x, (2,), "(n, m)")
    expect("target", target, x, "the shape of x")
    if weight is not None:
        expect("weight", weight, x[:1], "(n,)")
    return Inferred({"loss": ()}, {})


def infer_backward(x: Shape, target: Shape, weight: Shape | None = None) -> Inferred:
    infer(x, target, weight)
    return Inferred({"dx": x}, {})


def forward(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    losses = ((x - target) ** 2).mean(axis=1)
    return {"loss": np.asarray((losses if weight is None else weight * losses).mean())}


def backward(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    dx = 2 * (x - target) / x.size
    return {"dx": dx if weight is None else dx * weight[:, None]}


def forward_bound(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    sizes = (abs(x) + abs(target)) ** 2
    return {"loss": 2 * forward(sizes**0.5, np.zeros_like(x), weight)["loss"]}


def backward_bound(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    return {"dx": 4 * abs(backward(abs(x), -abs(target), weight)["dx"])}


def cost(x: Shape, target: Shape, weight: Shape | None = None) -> tuple[int, int]:
    return 3 * prod(x), 2 * prod(x)


def _case(name: str, n: int, m: int, weighted: bool = False) -> Case:
    arrays: dict[str, Shape | Draw | Array] = {"x": (n, m), "target": (n, m)}
    return Case(name, arrays | ({"weight": Draw((n,), "positive")} if weighted else {}))


CASES = [
    _case("one", 1, 1),
    _case("two outputs", 33, 2),
    _case("weighted", 7, 19, weighted=True),
    _case("several chunks", 900, 10),
]
