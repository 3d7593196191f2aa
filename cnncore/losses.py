"""Losses: declarations, as layers are. Each says what its targets are."""

from __future__ import annotations

from dataclasses import dataclass

from .plan import Builder, Tensor


@dataclass(frozen=True)
class Loss:
    """A loss over scores (n, m). `targets` says what y holds: "class" indices (n,)."""

    targets = "class"

    def emit(self, net: Builder, scores: Tensor, target: Tensor) -> Tensor:
        """Appends the loss; its float64 scalar, the mean over the batch."""
        raise NotImplementedError


@dataclass(frozen=True)
class Softmax(Loss):
    """Softmax cross-entropy (cs231n, linear classification): ln C at chance for C classes."""

    def emit(self, net: Builder, scores: Tensor, target: Tensor) -> Tensor:
        return net.apply("softmax_cross_entropy", x=scores, target=target)["loss"]


NAMES: dict[str, Loss] = {"softmax": Softmax()}


def resolve(loss: object) -> Loss:
    """A Loss, or the one of that name."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in NAMES:
        return NAMES[loss]
    raise ValueError(f"loss must be one of {', '.join(map(repr, NAMES))}, not {loss!r}")
