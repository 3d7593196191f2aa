"""The order of a shuffled epoch: 0 .. count-1, sorted by one 64-bit draw each.

Ties (two of a million examples once in forty million epochs) keep their order. A draw depends on
seed, epoch t, ordinal and the example's number alone; `ordinal` tells apart what is shuffled."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..shapes import integer
from . import philox
from .case import Array, Case, Inferred

STEP = ("seed", "t")
DTYPES = {"order": "int64"}


def infer(count: Any, ordinal: Any = 0) -> Inferred:
    number = integer("count", count, 1, 2**48)  # what blocks of the generator are numbered for
    place = integer("ordinal", ordinal, 0, 2**24 - 1)
    return Inferred({"order": (number,)}, {"count": number, "ordinal": place})


def forward(count: int, ordinal: int = 0, seed: int = 0, t: int = 1) -> dict[str, Array]:
    draws = philox.draws_64(seed, count, t, philox.SHUFFLE, ordinal)
    return {"order": np.argsort(draws, kind="stable")}


def forward_bound(count: int, ordinal: int = 0, seed: int = 0, t: int = 1) -> dict[str, Array]:
    return {"order": np.zeros(count)}


def cost(count: int, ordinal: int = 0) -> tuple[int, int]:
    return 0, 4 * count


CASES = [
    Case("one", {}, {"count": 1}),
    Case("two", {}, {"count": 2}, {"seed": 5, "t": 3}),
    Case("odd", {}, {"count": 77, "ordinal": 2}, {"seed": 2**63 + 5, "t": 2**33 + 1}),
    Case("a power of two", {}, {"count": 256, "ordinal": 1}, {"seed": 3, "t": 4}),
    Case("many", {}, {"count": 20011}, {"seed": 2**64 - 1, "t": 7}),
]
