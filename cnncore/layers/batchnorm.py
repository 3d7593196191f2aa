"""Batch normalization."""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import Builder, Tensor
from ..shapes import number, settle
from .base import Layer


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Normalizes each feature of (d,) or each channel of (h, w, c) over the batch.

    Parameters gamma (1) and beta (0), neither penalized; statistics running_mean (0) and
    running_var (1), updated as momentum * running + (1 - momentum) * batch, both biased, and used
    at test time and where the layer is frozen (Ioffe and Szegedy 2015, algorithms 1 and 2)."""

    momentum: float = 0.9
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, momentum=number("momentum", self.momentum, 0, 1, open_high=True))
        settle(self, eps=number("eps", self.eps, 0, 1, open_low=True))

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        c = x.shape[-1:]
        gamma, beta = net.parameter("gamma", c, 1.0), net.parameter("beta", c, 0.0)
        mean, var = net.statistic("running_mean", c, 0.0), net.statistic("running_var", c, 1.0)
        if not net.training or (gamma.frozen and beta.frozen):
            return net.apply(
                "batchnorm_eval", x=x, gamma=gamma, beta=beta, running_mean=mean, running_var=var,
                eps=self.eps,
            )["y"]  # fmt: skip
        out = net.apply("batchnorm", x=x, gamma=gamma, beta=beta, eps=self.eps)
        for running, value in ((mean, out["mean"]), (var, out["var"])):
            net.apply(
                "running_average", late=True, running=running, value=value, momentum=self.momentum
            )
        return out["y"]
