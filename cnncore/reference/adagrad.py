"""AdaGrad (Duchi et al. 2011), epsilon outside the root.

cache += g^2;  w -= lr g / (sqrt(cache) + eps),  g = dw + l2 w"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, expect_rank, number
from . import l2_penalty
from .case import Array, Case, Draw, Inferred

STEP = ("lr",)
DTYPES = {"segments": "float64"}


def infer(w: Shape, dw: Shape, segments: Shape, cache: Shape, eps: Any = 1e-8) -> Inferred:
    expect_rank("w", w, (1,), "(size,)")
    expect("dw", dw, w, "the shape of w")
    expect("cache", cache, w, "the shape of w")
    return Inferred({"w": w, "cache": w}, {"eps": number("eps", eps, 0, 1, open_low=True)})


def update(
    w: Array, dw: Array, segments: Array, cache: Array, lr: float, eps: float = 1e-8
) -> dict[str, Array]:
    inside = l2_penalty.inside(w, segments)
    g = dw + l2_penalty.strengths(w, segments) * w
    cache = np.where(inside, cache + g**2, cache)
    return {"w": np.where(inside, w - lr * g / (np.sqrt(cache) + eps), w), "cache": cache}


def update_bound(
    w: Array, dw: Array, segments: Array, cache: Array, lr: float, eps: float = 1e-8
) -> dict[str, Array]:
    new = update(w, dw, segments, cache, lr, eps)["cache"]
    g = abs(dw) + l2_penalty.strengths(w, segments) * abs(w)
    return bounds(w, g, 8 * (cache + g**2), new, lr, eps)


def bounds(
    w: Array, g: Array, cache_bound: Array, cache: Array, lr: float, eps: float
) -> dict[str, Array]:
    """For this rule and RMSProp: what an error in the new cache does to w."""
    rate = lr / (np.sqrt(cache) + eps)
    relative = 8 + cache_bound / np.maximum(cache, 1e-300)
    return {"w": 2 * abs(w) + rate * g * relative, "cache": cache_bound}


def cost(w: Shape, dw: Shape, segments: Shape, cache: Shape, eps: float = 1e-8) -> tuple[int, int]:
    return 9 * prod(w), 5 * prod(w)


ARRAYS: dict[str, Shape | Draw | Array] = {
    "w": (20176,), "dw": (20176,), "segments": l2_penalty.SEGMENTS,
    "cache": Draw((20176,), "positive"),
}  # fmt: skip
CASES = [
    Case("first step", ARRAYS | {"cache": np.zeros(20176)}, {}, {"lr": 0.01}),
    Case("later", ARRAYS, {"eps": 1e-4}, {"lr": 0.1}),
]
