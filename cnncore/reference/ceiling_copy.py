"""The ceiling of memory, one array in and one out: y = x, with `streaming` past the caches."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect_rank, flag
from .case import Array, Case, Inferred


def infer(x: Shape, streaming: Any = False) -> Inferred:
    expect_rank("x", x, (1, 2, 3, 4), "(n, ...)")
    return Inferred({"y": x}, {"streaming": flag("streaming", streaming)})


def forward(x: Array, streaming: bool = False) -> dict[str, Array]:
    return {"y": x.copy()}


def forward_bound(x: Array, streaming: bool = False) -> dict[str, Array]:
    return {"y": np.zeros_like(x)}


def cost(x: Shape, streaming: bool = False) -> tuple[int, int]:
    return 0, 2 * prod(x)


CASES = [
    Case("one", {"x": (1, 1)}, {"streaming": True}),
    Case("odd", {"x": (5, 7)}),
    Case("several chunks", {"x": (9, 5001)}),
    Case("several chunks, streaming", {"x": (9, 5001)}, {"streaming": True}),
]
