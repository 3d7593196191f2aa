"""Dropout (Srivastava et al. 2014): inverted, kept elements are divided by keep_prob; in its first
form they stay as they are, and all elements are multiplied by keep_prob at test time (`scale`).

keep_prob is the probability to keep an element, the p of cs231n's notes. An element is kept if its
16-bit draw is below round(65536 keep_prob); the mask depends on seed, iteration t, the layer's
ordinal and the element's place in the batch alone."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect_rank, flag, integer, number
from . import philox
from .case import Array, Case, Inferred

STEP = ("seed", "t")
IN_PLACE = {"y": "x", "dx": "dy"}


def infer(x: Shape, keep_prob: Any, ordinal: Any = 0, inverted: Any = True) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    keep = number("keep_prob", keep_prob, 0, 1, open_low=True)
    if round(65536 * keep) < 1:
        raise ValueError(f"keep_prob must be at least 2^-17, not {keep!r}")
    place = integer("ordinal", ordinal, 0, 2**24 - 1)
    settings = {"keep_prob": keep, "ordinal": place, "inverted": flag("inverted", inverted)}
    return Inferred({"y": x}, settings)


def infer_backward(dy: Shape, keep_prob: Any, ordinal: Any = 0, inverted: Any = True) -> Inferred:
    return Inferred({"dx": dy}, infer(dy, keep_prob, ordinal, inverted).attributes)


def mask(shape: Shape, keep_prob: float, ordinal: int, seed: int, t: int) -> Array:
    """Which elements are kept."""
    draws = philox.draws_16(seed, prod(shape), t, philox.DROPOUT, ordinal)
    return (draws < int(65536 * keep_prob + 0.5)).reshape(shape)


def forward(
    x: Array, keep_prob: float, ordinal: int = 0, inverted: bool = True, seed: int = 0, t: int = 1
) -> dict[str, Array]:
    kept = x / keep_prob if inverted else x
    return {"y": np.where(mask(x.shape, keep_prob, ordinal, seed, t), kept, 0)}


def backward(
    dy: Array, keep_prob: float, ordinal: int = 0, inverted: bool = True, seed: int = 0, t: int = 1
) -> dict[str, Array]:
    kept = dy / keep_prob if inverted else dy
    return {"dx": np.where(mask(dy.shape, keep_prob, ordinal, seed, t), kept, 0)}


def forward_bound(
    x: Array, keep_prob: float, ordinal: int = 0, inverted: bool = True, seed: int = 0, t: int = 1
) -> dict[str, Array]:
    return {"y": 2 * abs(forward(x, keep_prob, ordinal, inverted, seed, t)["y"])}


def backward_bound(
    dy: Array, keep_prob: float, ordinal: int = 0, inverted: bool = True, seed: int = 0, t: int = 1
) -> dict[str, Array]:
    return {"dx": 2 * abs(backward(dy, keep_prob, ordinal, inverted, seed, t)["dx"])}


def cost(x: Shape, keep_prob: float, ordinal: int = 0, inverted: bool = True) -> tuple[int, int]:
    return prod(x), 2 * prod(x)


def _first_form(name: str, x: Shape, keep_prob: float, step: dict[str, int]) -> Case:
    return Case(name, {"x": x}, {"keep_prob": keep_prob, "ordinal": 3, "inverted": False}, step)


CASES = [
    Case("one", {"x": (1, 1)}, {"keep_prob": 0.5}, {"seed": 1, "t": 1}),
    Case("odd", {"x": (3, 7)}, {"keep_prob": 0.7, "ordinal": 3}, {"seed": 2**63 + 5, "t": 9}),
    Case("keeps all", {"x": (5, 13)}, {"keep_prob": 1.0}, {"seed": 7, "t": 2}),
    Case("image", {"x": (2, 5, 7, 3)}, {"keep_prob": 0.25}, {"seed": 7, "t": 2**33 + 1}),
    Case("several chunks", {"x": (3, 17001)}, {"keep_prob": 0.9}, {"seed": 3, "t": 4}),
    _first_form("not inverted", (3, 7), 0.7, {"seed": 2**63 + 5, "t": 9}),
    _first_form("not inverted, several chunks", (3, 17001), 0.25, {"seed": 3, "t": 4}),
]
