"""RMSProp (Tieleman and Hinton 2012), epsilon outside the root.

cache = decay cache + (1 - decay) g^2;  w -= lr g / (sqrt(cache) + eps),  g = dw + l2 w"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, number
from . import adagrad, l2_penalty
from .case import Array, Case, Inferred

STEP = ("lr",)
DTYPES = {"segments": "float64"}


def infer(
    w: Shape, dw: Shape, segments: Shape, cache: Shape, decay: Any = 0.99, eps: Any = 1e-8
) -> Inferred:
    results, attributes = adagrad.infer(w, dw, segments, cache, eps)
    return Inferred(results, {"decay": number("decay", decay, 0, 1, open_high=True), **attributes})


def update(
    w: Array, dw: Array, segments: Array, cache: Array, lr: float,
    decay: float = 0.99, eps: float = 1e-8,
) -> dict[str, Array]:  # fmt: skip
    inside = l2_penalty.inside(w, segments)
    g = dw + l2_penalty.strengths(w, segments) * w
    cache = np.where(inside, decay * cache + (1 - decay) * g**2, cache)
    return {"w": np.where(inside, w - lr * g / (np.sqrt(cache) + eps), w), "cache": cache}


def update_bound(
    w: Array, dw: Array, segments: Array, cache: Array, lr: float,
    decay: float = 0.99, eps: float = 1e-8,
) -> dict[str, Array]:  # fmt: skip
    new = update(w, dw, segments, cache, lr, decay, eps)["cache"]
    g = abs(dw) + l2_penalty.strengths(w, segments) * abs(w)
    cache_bound = 8 * (decay * cache + (1 - decay) * g**2)
    return adagrad.bounds(w, g, cache_bound, new, lr, eps)


def cost(
    w: Shape, dw: Shape, segments: Shape, cache: Shape, decay: float = 0.99, eps: float = 1e-8
) -> tuple[int, int]:
    return 11 * prod(w), 5 * prod(w)


CASES = [
    Case("default", adagrad.ARRAYS, {}, {"lr": 0.01}),
    Case("first step", adagrad.ARRAYS | {"cache": np.zeros(20176)}, {"decay": 0.9}, {"lr": 0.01}),
]
