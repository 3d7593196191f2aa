"""SGD with momentum, the course's form: v = mu v - lr (dw + l2 w); w += v.

The velocity holds the learning rate. PyTorch's does not, so the two differ once lr changes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, expect_rank, number
from . import l2_penalty
from .case import Array, Case, Inferred

STEP = ("lr",)
DTYPES = {"segments": "float64"}


def infer(w: Shape, dw: Shape, segments: Shape, v: Shape, mu: Any = 0.9) -> Inferred:
    expect_rank("w", w, (1,), "(size,)")
    expect("dw", dw, w, "the shape of w")
    expect("v", v, w, "the shape of w")
    return Inferred({"w": w, "v": v}, {"mu": number("mu", mu, 0, 1, open_high=True)})


def update(
    w: Array, dw: Array, segments: Array, v: Array, lr: float, mu: float = 0.9
) -> dict[str, Array]:
    g = dw + l2_penalty.strengths(w, segments) * w
    inside = l2_penalty.inside(w, segments)
    velocity = np.where(inside, mu * v - lr * g, v)
    return {"w": np.where(inside, w + velocity, w), "v": velocity}


def update_bound(
    w: Array, dw: Array, segments: Array, v: Array, lr: float, mu: float = 0.9
) -> dict[str, Array]:
    g = abs(dw) + l2_penalty.strengths(w, segments) * abs(w)
    velocity = 6 * (mu * abs(v) + lr * g)
    return {"w": 2 * abs(w) + velocity, "v": velocity}


def cost(w: Shape, dw: Shape, segments: Shape, v: Shape, mu: float = 0.9) -> tuple[int, int]:
    return 6 * prod(w), 5 * prod(w)


ARRAYS: dict[str, Shape | Array] = {
    "w": (20176,),
    "dw": (20176,),
    "segments": l2_penalty.SEGMENTS,
    "v": (20176,),
}
CASES = [
    Case("default", ARRAYS, {}, {"lr": 0.1}),
    Case("mu 0.5", ARRAYS, {"mu": 0.5}, {"lr": 0.01}),
]
