"""Losses: declarations, as layers are. Each says what its targets are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .plan import Builder, Tensor


@dataclass(frozen=True)
class Loss:
    """A loss over scores (n, m). `targets` says what y holds: "class" indices (n,), or "real"
    numbers (n, m). The loss is the sum of weight_i loss_i over the batch, divided by n."""

    op: ClassVar[str]
    targets: ClassVar[str] = "class"

    def emit(self, net: Builder, scores: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Appends the loss; its float64 scalar."""
        return net.apply(self.op, x=scores, target=target, weight=weight)["loss"]


@dataclass(frozen=True)
class Softmax(Loss):
    """Softmax cross-entropy (cs231n, linear classification): ln C at chance for C classes."""

    op: ClassVar[str] = "softmax_cross_entropy"


@dataclass(frozen=True)
class Hinge(Loss):
    """Multiclass hinge loss with margin 1, the SVM loss (cs231n): C - 1 at chance."""

    op: ClassVar[str] = "multiclass_hinge"


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """The mean over the m outputs of (score - target)^2, for real targets (n, m)."""

    op: ClassVar[str] = "mean_squared_error"
    targets: ClassVar[str] = "real"


NAMES: dict[str, Loss] = {"softmax": Softmax(), "hinge": Hinge(), "mse": MeanSquaredError()}


def resolve(loss: object) -> Loss:
    """A Loss, or the one of that name."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in NAMES:
        return NAMES[loss]
    raise ValueError(f"loss must be one of {', '.join(map(repr, NAMES))}, not {loss!r}")
