"""The convolutional layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .. import init
from ..plan import Builder, Tensor
from ..shapes import flag, integer, pair, plain_padding, settle
from .base import Layer


@dataclass(frozen=True)
class Conv2d(Layer):
    """Convolution over (h, w, c) images: parameters w (r, s, c, k) and b (k,).

    k: filters; size: r and s, one integer or (vertical, horizontal); stride likewise;
    padding: an integer, (vertical, horizontal), ((top, bottom), (left, right)) or "same".
    Output size (h + padding - r) / stride + 1, rounded down. init as in `Affine`.
    Source: cs231n, convolutional networks."""

    k: int
    size: Any
    stride: Any = 1
    padding: Any = 0
    bias: bool = True
    init: Any = None
    rectifies: ClassVar[bool | None] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, k=integer("k", self.k), size=pair("size", self.size))
        settle(self, stride=pair("stride", self.stride), padding=plain_padding(self.padding))
        settle(self, bias=flag("bias", self.bias))
        init.resolve(self.init, True)

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        if len(x.shape) != 4:
            raise ValueError(f"takes images (h, w, c), not {x.shape[1:]} an example")
        shape = (*self.size, x.shape[3], self.k)
        fill = init.resolve(self.init, net.rectified)
        w = net.parameter("w", shape, fill, penalized=True)
        b = net.parameter("b", (self.k,), 0.0) if self.bias else None
        return net.apply("conv2d", x=x, w=w, b=b, stride=self.stride, padding=self.padding)["y"]
