"""Nesterov momentum, the course's form: v = mu v_before - lr g; w += -mu v_before + (1 + mu) v.

g = dw + l2 w is taken at w, which is the look-ahead point x + mu v of the textbook's
v = mu v - lr g(x + mu v); x += v."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape
from . import l2_penalty, momentum
from .case import Array, Case, Inferred

STEP = ("lr",)
DTYPES = {"segments": "float64"}


def infer(w: Shape, dw: Shape, segments: Shape, v: Shape, mu: Any = 0.9) -> Inferred:
    return momentum.infer(w, dw, segments, v, mu)


def update(
    w: Array, dw: Array, segments: Array, v: Array, lr: float, mu: float = 0.9
) -> dict[str, Array]:
    velocity = momentum.update(w, dw, segments, v, lr, mu)["v"]
    moved = w - mu * v + (1 + mu) * velocity
    return {"w": np.where(l2_penalty.inside(w, segments), moved, w), "v": velocity}


def update_bound(
    w: Array, dw: Array, segments: Array, v: Array, lr: float, mu: float = 0.9
) -> dict[str, Array]:
    velocity = momentum.update_bound(w, dw, segments, v, lr, mu)["v"]
    return {"w": 2 * abs(w) + 4 * mu * abs(v) + 2 * (1 + mu) * velocity, "v": velocity}


def cost(w: Shape, dw: Shape, segments: Shape, v: Shape, mu: float = 0.9) -> tuple[int, int]:
    return 8 * prod(w), 5 * prod(w)


CASES = [
    Case("default", momentum.ARRAYS, {}, {"lr": 0.1}),
    Case("mu 0.5", momentum.ARRAYS, {"mu": 0.5}, {"lr": 0.01}),
]
