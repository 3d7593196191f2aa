"""Stochastic gradient descent: w -= lr (dw + l2 w) (cs231n, parameter updates)."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from . import l2_penalty
from .case import Array, Case, Inferred

STEP = ("lr",)
DTYPES = {"segments": "float64"}


def infer(w: Shape, dw: Shape, segments: Shape) -> Inferred:
    expect_rank("w", w, (1,), "(size,)")
    expect("dw", dw, w, "the shape of w")
    return Inferred({"w": w}, {})


def update(w: Array, dw: Array, segments: Array, lr: float) -> dict[str, Array]:
    g = dw + l2_penalty.strengths(w, segments) * w
    return {"w": np.where(l2_penalty.inside(w, segments), w - lr * g, w)}


def update_bound(w: Array, dw: Array, segments: Array, lr: float) -> dict[str, Array]:
    g = abs(dw) + l2_penalty.strengths(w, segments) * abs(w)
    return {"w": 4 * (abs(w) + lr * g)}


def cost(w: Shape, dw: Shape, segments: Shape) -> tuple[int, int]:
    return 4 * prod(w), 3 * prod(w)


_S = l2_penalty.SEGMENTS
CASES = [Case("segments", {"w": (20176,), "dw": (20176,), "segments": _S}, {}, {"lr": 0.1})]
