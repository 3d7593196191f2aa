"""Elementwise nonlinearities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..plan import Builder, Tensor
from .base import Layer


@dataclass(frozen=True)
class ReLU(Layer):
    """y = max(x, 0); the gradient at exactly 0 is 0 (cs231n, neural networks 1)."""

    rectifies: ClassVar[bool | None] = True

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        return net.apply("relu", x=x)["y"]
