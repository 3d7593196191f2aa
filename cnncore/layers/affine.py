"""The affine (fully connected) layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from .. import init
from ..plan import Builder, Tensor
from ..shapes import flag, integer, settle
from .base import Layer


@dataclass(frozen=True)
class Affine(Layer):
    """y = x w + b, x read as (n, d): parameters w (d, m) and b (m,).

    m: outputs; init: "he", "lecun", "glorot", "gaussian" or an initialization of `cnncore.init`
    (default: He before a ReLU, LeCun elsewhere). Source: cs231n, neural networks 1."""

    m: int
    bias: bool = True
    init: Any = None
    rectifies: ClassVar[bool | None] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, m=integer("m", self.m), bias=flag("bias", self.bias))
        init.resolve(self.init, True)

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        d = prod(x.shape[1:])
        fill = init.resolve(self.init, net.rectified)
        w = net.parameter("w", (d, self.m), fill, penalized=True)
        b = net.parameter("b", (self.m,), 0.0) if self.bias else None
        return net.apply("affine", x=x, w=w, b=b)["y"]
