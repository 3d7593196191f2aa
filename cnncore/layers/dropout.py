"""Dropout."""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import Builder, Tensor
from ..shapes import flag, number, settle
from .base import Layer


@dataclass(frozen=True)
class Dropout(Layer):
    """Keeps each element with probability keep_prob in training, at random, and makes the others 0
    (Srivastava et al. 2014; cs231n, neural networks 2).

    keep_prob is the probability to KEEP, in (0, 1]. Inverted dropout divides what it keeps by
    keep_prob and does nothing at test time. The first form (inverted=False) keeps elements as they
    are and multiplies all of them by keep_prob at test time. Either way an element's expectation in
    training is what it is at test time."""

    keep_prob: float
    inverted: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, keep_prob=number("keep_prob", self.keep_prob, 0, 1, open_low=True))
        settle(self, inverted=flag("inverted", self.inverted))

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        if net.training:
            return net.apply(
                "dropout", x=x, keep_prob=self.keep_prob, ordinal=net.ordinal,
                inverted=self.inverted,
            )["y"]  # fmt: skip
        return x if self.inverted else net.apply("scale", x=x, factor=self.keep_prob)["y"]
