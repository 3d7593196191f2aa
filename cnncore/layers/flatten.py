"""Reshaping."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..plan import Builder, Tensor
from .base import Layer


@dataclass(frozen=True)
class Flatten(Layer):
    """(h, w, c) to (h w c,), in that order. Costs nothing."""

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        return net.reshape(x, (prod(x.shape[1:]),))
