"""Pooling layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..plan import Builder, Tensor
from ..shapes import pair, plain_padding, settle
from .base import Layer


@dataclass(frozen=True)
class _Pool2d(Layer):
    """An op over windows of images."""

    size: Any = 2
    stride: Any = None
    padding: Any = 0
    op: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, size=pair("size", self.size), padding=plain_padding(self.padding))
        if self.stride is not None:
            settle(self, stride=pair("stride", self.stride))

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        window = {"size": self.size, "stride": self.stride, "padding": self.padding}
        return net.apply(self.op, x=x, **window)["y"]


@dataclass(frozen=True)
class MaxPool2d(_Pool2d):
    """Largest value of each window; the first in row order wins a tie.

    size and stride (default: size): an integer or (vertical, horizontal); padding as in `Conv2d`
    but smaller than the window; it never wins. Source: cs231n, convolutional networks."""

    op: ClassVar[str] = "max_pool2d"


@dataclass(frozen=True)
class AvgPool2d(_Pool2d):
    """Mean of each window over its pixels in the image: padding does not count.

    size, stride and padding as in `MaxPool2d`. Source: cs231n, convolutional networks."""

    op: ClassVar[str] = "avg_pool2d"


@dataclass(frozen=True)
class GlobalAvgPool2d(Layer):
    """Mean of each channel over all pixels: (h, w, c) to (c,) (Lin et al. 2013)."""

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        return net.apply("global_avg_pool2d", x=x)["y"]
