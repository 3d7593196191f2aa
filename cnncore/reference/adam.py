"""Adam (Kingma and Ba 2015, algorithm 1), epsilon outside the root, t counted from 1.

m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
w -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps),  g = dw + l2 w"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, expect_rank, number
from . import l2_penalty
from .case import Array, Case, Draw, Inferred

STEP = ("lr", "t")
DTYPES = {"segments": "float64"}


def infer(
    w: Shape, dw: Shape, segments: Shape, m: Shape, v: Shape,
    beta1: Any = 0.9, beta2: Any = 0.999, eps: Any = 1e-8,
) -> Inferred:  # fmt: skip
    expect_rank("w", w, (1,), "(size,)")
    for name, shape in (("dw", dw), ("m", m), ("v", v)):
        expect(name, shape, w, "the shape of w")
    return Inferred(
        {"w": w, "m": m, "v": v},
        {
            "beta1": number("beta1", beta1, 0, 1, open_high=True),
            "beta2": number("beta2", beta2, 0, 1, open_high=True),
            "eps": number("eps", eps, 0, 1, open_low=True),
        },
    )


def update(
    w: Array, dw: Array, segments: Array, m: Array, v: Array, lr: float, t: int,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
) -> dict[str, Array]:  # fmt: skip
    inside = l2_penalty.inside(w, segments)
    g = dw + l2_penalty.strengths(w, segments) * w
    m = np.where(inside, beta1 * m + (1 - beta1) * g, m)
    v = np.where(inside, beta2 * v + (1 - beta2) * g**2, v)
    step = lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return {"w": np.where(inside, w - step, w), "m": m, "v": v}


def update_bound(
    w: Array, dw: Array, segments: Array, m: Array, v: Array, lr: float, t: int,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
) -> dict[str, Array]:  # fmt: skip
    g = abs(dw) + l2_penalty.strengths(w, segments) * abs(w)
    new = update(w, dw, segments, m, v, lr, t, beta1, beta2, eps)
    m_bound = 6 * (beta1 * abs(m) + (1 - beta1) * g)
    v_bound = 8 * (beta2 * v + (1 - beta2) * g**2)
    root = np.sqrt(new["v"] / (1 - beta2**t)) + eps
    rate = lr / (1 - beta1**t) / root
    relative = 8 + v_bound / np.maximum(new["v"], 1e-300)
    step = rate * (m_bound + abs(new["m"]) * relative)
    return {"w": 2 * abs(w) + step, "m": m_bound, "v": v_bound}


def cost(
    w: Shape, dw: Shape, segments: Shape, m: Shape, v: Shape,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
) -> tuple[int, int]:  # fmt: skip
    return 14 * prod(w), 7 * prod(w)


_ARRAYS: dict[str, Shape | Draw | Array] = {
    "w": (20176,), "dw": (20176,), "segments": l2_penalty.SEGMENTS,
    "m": (20176,), "v": Draw((20176,), "positive"),
}  # fmt: skip
CASES = [
    Case("first step", _ARRAYS, {}, {"lr": 1e-3, "t": 1}),
    Case("later", _ARRAYS, {"beta1": 0.8, "beta2": 0.99, "eps": 1e-6}, {"lr": 0.01, "t": 1000}),
]
