"""Lets no step through whose loss or gradient is not finite. Computes nothing."""

from __future__ import annotations

from math import prod

import numpy as np

from ..shapes import Shape, expect, expect_rank
from .case import Array, Case, Inferred

DTYPES = {"loss": "float64"}


def infer(loss: Shape, dw: Shape) -> Inferred:
    expect("loss", loss, (), "a scalar")
    expect_rank("dw", dw, (1,), "(size,)")
    return Inferred({}, {})


def forward(loss: Array, dw: Array) -> dict[str, Array]:
    if not np.isfinite(loss):
        raise FloatingPointError("the loss is not finite")
    if not np.isfinite(dw).all():
        raise FloatingPointError("the gradient is not finite")
    return {}


def forward_bound(loss: Array, dw: Array) -> dict[str, Array]:
    return {}


def cost(loss: Shape, dw: Shape) -> tuple[int, int]:
    return prod(dw), prod(dw)


CASES = [Case("finite", {"loss": np.array(1.5), "dw": (9001,)})]
