"""Softmax cross-entropy: the mean over the batch of -log softmax(x)[i, target[i]], weighted by the
examples' weights (cs231n).

For ten classes and small random weights it starts at ln 10 = 2.303."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from . import softmax
from .case import Array, Case, Draw, Inferred

DTYPES = {"target": "int64", "loss": "float64"}


def infer(x: Shape, target: Shape, weight: Shape | None = None) -> Inferred:
    """x (n, classes) scores, target (n,) class indices, weight (n,) of the examples."""
    expect_rank("x", x, (2,), "(n, classes)")
    expect("target", target, x[:1], "(n,)")
    if weight is not None:
        expect("weight", weight, x[:1], "(n,)")
    return Inferred({"loss": (), "prob": x}, {})


def infer_backward(prob: Shape, target: Shape, weight: Shape | None = None) -> Inferred:
    return Inferred({"dx": infer(prob, target, weight).results["prob"]}, {})


def forward(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    shifted = x - x.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    losses = log_sum - shifted[np.arange(len(x)), target]
    loss = (losses if weight is None else weight * losses).mean()
    return {"loss": np.asarray(loss), "prob": softmax.forward(x)["y"]}


def backward(prob: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    dx = prob.copy()
    dx[np.arange(len(dx)), target] -= 1
    return {"dx": dx / len(dx) if weight is None else dx * weight[:, None] / len(dx)}


def forward_bound(x: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    spread = np.ptp(x, axis=1)
    sizes = 16 + 2 * spread
    return {
        "loss": np.asarray((sizes if weight is None else abs(weight) * sizes).mean()),
        "prob": (16 + 2 * spread[:, None]) * softmax.forward(x)["y"],
    }


def backward_bound(prob: Array, target: Array, weight: Array | None = None) -> dict[str, Array]:
    size = np.ones(len(prob)) if weight is None else abs(weight)
    return {"dx": 4 * size[:, None] * np.ones_like(prob) / len(prob)}


def cost(x: Shape, target: Shape, weight: Shape | None = None) -> tuple[int, int]:
    return 10 * prod(x), 2 * prod(x)


def _case(name: str, n: int, classes: int) -> Case:
    return Case(name, {"x": (n, classes), "target": Draw((n,), "integers", classes)})


CASES = [
    _case("one", 1, 1),
    _case("two", 5, 2),
    _case("ten", 67, 10),
    _case("odd", 33, 19),
    _case("many", 3, 5001),
    _case("several chunks", 900, 10),
    Case(
        "weighted",
        {"x": (9, 7), "target": Draw((9,), "integers", 7), "weight": Draw((9,), "positive")},
    ),
    Case("course", {"x": np.array([[123.0, 456.0, 789.0]]), "target": np.array([1])}),
]
