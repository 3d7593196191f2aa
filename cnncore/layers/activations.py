"""Elementwise nonlinearities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..plan import Builder, Tensor
from ..shapes import number, settle
from .base import Layer


@dataclass(frozen=True)
class ReLU(Layer):
    """y = max(x, 0); the gradient at exactly 0 is 0 (cs231n, neural networks 1)."""

    rectifies: ClassVar[bool | None] = True

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        return net.apply("relu", x=x)["y"]


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """y = slope x for x < 0, x otherwise, 0 <= slope < 1; the gradient at exactly 0 is slope
    (Maas et al. 2013; cs231n, neural networks 1)."""

    slope: float = 0.01
    rectifies: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, slope=number("slope", self.slope, 0, 1, open_high=True))

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        return net.apply("leaky_relu", x=x, slope=self.slope)["y"]


@dataclass(frozen=True)
class ELU(Layer):
    """y = x for x > 0, alpha (exp(x) - 1) otherwise, 0 <= alpha <= 1e6; the gradient at exactly 0
    is alpha (Clevert et al. 2016; cs231n, neural networks 1)."""

    alpha: float = 1.0
    rectifies: ClassVar[bool | None] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, alpha=number("alpha", self.alpha, 0, 1e6))

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        return net.apply("elu", x=x, alpha=self.alpha)["y"]


@dataclass(frozen=True)
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)) (cs231n, neural networks 1)."""

    rectifies: ClassVar[bool | None] = False

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        return net.apply("sigmoid", x=x)["y"]


@dataclass(frozen=True)
class Tanh(Layer):
    """y = tanh(x) (cs231n, neural networks 1)."""

    rectifies: ClassVar[bool | None] = False

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        return net.apply("tanh", x=x)["y"]
