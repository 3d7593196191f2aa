"""Dropout."""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import Builder, Tensor
from ..shapes import number, settle
from .base import Layer


@dataclass(frozen=True)
class Dropout(Layer):
    """Inverted dropout: in training each element is kept with probability keep_prob and divided by
    it; at test time nothing happens (Srivastava et al. 2014; cs231n, neural networks 2).

    keep_prob is the probability to KEEP, in (0, 1]."""

    keep_prob: float

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, keep_prob=number("keep_prob", self.keep_prob, 0, 1, open_low=True))

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        if not net.training:
            return x
        return net.apply("dropout", x=x, keep_prob=self.keep_prob, ordinal=net.ordinal)["y"]
