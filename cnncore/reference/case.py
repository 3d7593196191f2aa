"""One entry of an op's case table, and the arrays it stands for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..shapes import Shape

Array = np.ndarray[Any, np.dtype[Any]]


class Inferred(NamedTuple):
    """Shapes of an op's results, and its attributes in canonical form."""

    results: dict[str, Shape]
    attributes: dict[str, Any]


class Draw(NamedTuple):
    """How an argument is drawn: standard normal unless `kind` says otherwise."""

    shape: Shape
    kind: str = "normal"  # normal, sparse, positive, distinct, bytes, or integers below `high`
    high: int = 0


@dataclass(frozen=True)
class Case:
    """Shapes (or draws, or fixed values) of an op's arguments, and its attributes."""

    name: str
    arrays: Mapping[str, Shape | Draw | Array]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    smooth: bool = True  # whether the op has a derivative there

    def make(self, dtype: str, fixed: Collection[str] = (), seed: int = 0) -> dict[str, Array]:
        """The arguments, the same for the same seed; those in `fixed` keep their own dtype."""
        random = np.random.RandomState(seed)
        return {
            name: _draw(random, what, "float64" if name in fixed else dtype)
            for name, what in self.arrays.items()
        }


def _draw(random: np.random.RandomState, what: Shape | Draw | Array, dtype: str) -> Array:
    if isinstance(what, np.ndarray):
        return what.astype(dtype) if what.dtype.kind == "f" else what
    draw = what if isinstance(what, Draw) else Draw(what)
    if draw.kind == "integers":
        return random.randint(0, draw.high, draw.shape).astype(np.int64)
    if draw.kind == "bytes":
        return random.randint(0, 256, draw.shape).astype(np.uint8)
    if draw.kind == "distinct":  # no two near each other, none near 0: far from every kink
        count = int(np.prod(draw.shape))
        return ((random.permutation(count) + 0.25).reshape(draw.shape) / count * 4 - 2).astype(
            dtype
        )
    values = random.standard_normal(draw.shape)
    if draw.kind == "sparse":
        values.reshape(-1)[np.arange(values.size) % 61 != 0] = 0
    return np.asarray(abs(values) + 0.1 if draw.kind == "positive" else values, dtype=dtype)
