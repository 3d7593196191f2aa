"""The maxout layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from .. import init
from ..plan import Builder, Tensor
from ..shapes import flag, integer, settle
from .base import Layer


@dataclass(frozen=True)
class Maxout(Layer):
    """y = max(x w1 + b1, x w2 + b2, ...) over `pieces` affine functions of x, read as (n, d):
    parameters w (d, pieces m) and b (pieces m,), piece p in columns p m .. (p + 1) m - 1.

    m: outputs; init as in `Affine` (default: LeCun whatever follows, since the larger of two
    outputs has the mean square of one). Source: Goodfellow et al. 2013; cs231n, neural networks 1.
    """

    m: int
    pieces: int = 2
    bias: bool = True
    init: Any = None
    rectifies: ClassVar[bool | None] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(
            self, m=integer("m", self.m), pieces=integer("pieces", self.pieces, 1, 65535),
            bias=flag("bias", self.bias),
        )  # fmt: skip
        integer("pieces * m", self.pieces * self.m)
        init.resolve(self.init, False)

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        d, columns = prod(x.shape[1:]), self.pieces * self.m
        fill = init.resolve(self.init, False)
        w = net.parameter("w", (d, columns), fill, penalized=True)
        b = net.parameter("b", (columns,), 0.0) if self.bias else None
        y = net.apply("affine", x=x, w=w, b=b)["y"]
        return net.apply("maxout", x=y, pieces=self.pieces)["y"]
