"""L2 penalty over the flat parameter vector: sum over segments of 0.5 l2 sum w^2 (cs231n A2)."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Inferred

DTYPES = {"segments": "float64", "penalty": "float64"}


def infer(w: Shape, segments: Shape) -> Inferred:
    """w (size,); segments (count, 3): offset, length and l2 of each parameter."""
    expect_rank("w", w, (1,), "(size,)")
    expect_rank("segments", segments, (2,), "(count, 3)")
    return Inferred({"penalty": ()}, {})


def infer_backward(w: Shape, segments: Shape, dw: Shape) -> Inferred:
    infer(w, segments)
    expect("dw", dw, w, "the shape of w")
    return Inferred({"dw": dw}, {})


def strengths(w: Array, segments: Array) -> Array:
    """l2 of each element of the flat vector; 0 between segments."""
    l2 = np.zeros(len(w))
    for offset, length, strength in segments:
        l2[int(offset) : int(offset + length)] = strength
    return l2


def inside(w: Array, segments: Array) -> Array:
    """Which elements of the flat vector belong to a parameter."""
    ones = segments.copy()
    ones[:, 2] = 1
    return strengths(w, ones) > 0


def forward(w: Array, segments: Array) -> dict[str, Array]:
    return {"penalty": np.asarray(0.5 * (strengths(w, segments) * w**2).sum())}


def backward(w: Array, segments: Array, dw: Array) -> dict[str, Array]:
    """Adds the penalty's gradient to dw."""
    return {"dw": dw + strengths(w, segments) * w}


def forward_bound(w: Array, segments: Array) -> dict[str, Array]:
    return {"penalty": 4 * forward(w, segments)["penalty"]}


def backward_bound(w: Array, segments: Array, dw: Array) -> dict[str, Array]:
    return {"dw": 4 * backward(abs(w), segments, abs(dw))["dw"]}


def cost(w: Shape, segments: Shape) -> tuple[int, int]:
    return 2 * prod(w), prod(w)


SEGMENTS = np.array([[0, 37, 0.0], [48, 100, 0.5], [160, 1, 2.0], [176, 20000, 0.01]])
CASES = [
    Case("one", {"w": (1,), "segments": np.array([[0, 1, 3.0]])}),
    Case("segments", {"w": (20176,), "segments": SEGMENTS}),
]
