"""Update rules and penalties: declarations, as layers are. Conventions are the course's."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import Any, ClassVar

from .shapes import number, settle


@dataclass(frozen=True)
class Update:
    """An update rule. lr, the learning rate, may change from step to step; the rest may not."""

    op: ClassVar[str]
    states: ClassVar[tuple[str, ...]] = ()  # vectors as long as the parameters

    lr: float

    def __post_init__(self) -> None:
        settle(self, lr=check_lr(self.lr))

    def attributes(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "lr"}


def check_lr(lr: Any) -> float:
    return number("lr", lr, 0, inf, open_high=True)


@dataclass(frozen=True)
class SGD(Update):
    """w -= lr dw."""

    op: ClassVar[str] = "sgd"
    lr: float = 1e-2


@dataclass(frozen=True)
class Momentum(Update):
    """v = mu v - lr dw; w += v. The velocity holds the learning rate."""

    op: ClassVar[str] = "momentum"
    states: ClassVar[tuple[str, ...]] = ("v",)
    lr: float = 1e-2
    mu: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, mu=number("mu", self.mu, 0, 1, open_high=True))


@dataclass(frozen=True)
class Nesterov(Momentum):
    """v_before = v; v = mu v - lr dw; w += -mu v_before + (1 + mu) v.

    Nesterov's accelerated gradient, written for the look-ahead point: w stands where the gradient
    is taken. Source: cs231n, neural networks 3."""

    op: ClassVar[str] = "nesterov"


@dataclass(frozen=True)
class AdaGrad(Update):
    """cache += dw^2; w -= lr dw / (sqrt(cache) + eps). Duchi et al. 2011, as cs231n has it."""

    op: ClassVar[str] = "adagrad"
    states: ClassVar[tuple[str, ...]] = ("cache",)
    lr: float = 1e-2
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, eps=number("eps", self.eps, 0, 1, open_low=True))


@dataclass(frozen=True)
class RMSProp(Update):
    """cache = decay cache + (1 - decay) dw^2; w -= lr dw / (sqrt(cache) + eps).

    Source: cs231n, neural networks 3, after Tieleman and Hinton 2012."""

    op: ClassVar[str] = "rmsprop"
    states: ClassVar[tuple[str, ...]] = ("cache",)
    lr: float = 1e-2
    decay: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, decay=number("decay", self.decay, 0, 1, open_high=True))
        settle(self, eps=number("eps", self.eps, 0, 1, open_low=True))


@dataclass(frozen=True)
class Adam(Update):
    """Kingma and Ba 2015, algorithm 1, with bias correction and epsilon outside the root."""

    op: ClassVar[str] = "adam"
    states: ClassVar[tuple[str, ...]] = ("m", "v")
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, beta1=number("beta1", self.beta1, 0, 1, open_high=True))
        settle(self, beta2=number("beta2", self.beta2, 0, 1, open_high=True))
        settle(self, eps=number("eps", self.eps, 0, 1, open_low=True))


@dataclass(frozen=True)
class L2:
    """Penalty 0.5 * strength * sum w^2 over all weights, not biases, gamma or beta.

    Its gradient is strength * w: the factor 1/2 is the course's (notes 2, assignment 2)."""

    strength: float

    def __post_init__(self) -> None:
        settle(self, strength=number("strength", self.strength, 0, inf, open_high=True))
