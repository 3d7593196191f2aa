"""Batch normalization (Ioffe and Szegedy 2015) over all axes but the last, training mode."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, expect_rank, number
from .case import Array, Case, Inferred


def infer(x: Shape, gamma: Shape, beta: Shape, eps: Any = 1e-5) -> Inferred:
    """x (n, d) or (n, h, w, c); gamma, beta, mean and var have one entry a channel."""
    expect_rank("x", x, (2, 4), "(n, d) or (n, h, w, c)")
    channels = (x[-1],)
    expect("gamma", gamma, channels, "(channels of x,)")
    expect("beta", beta, channels, "(channels of x,)")
    return Inferred(
        {"y": x, "mean": channels, "var": channels},
        {"eps": number("eps", eps, 0, 1, open_low=True)},
    )


def infer_backward(
    dy: Shape, x: Shape, gamma: Shape, mean: Shape, var: Shape, eps: Any = 1e-5
) -> Inferred:
    expect("dy", dy, x, "the shape of x")
    expect("mean", mean, gamma, "(channels of x,)")
    expect("var", var, gamma, "(channels of x,)")
    return Inferred({"dx": x, "dgamma": gamma, "dbeta": gamma}, infer(x, gamma, gamma, eps)[1])


def forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> dict[str, Array]:
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) == 1:
        raise ValueError("batch normalization needs more than one value per channel in training")
    mean = rows[0] + (rows - rows[0]).mean(axis=0)  # far from zero, sums of values lose digits
    var = ((rows - mean) ** 2).mean(axis=0)
    return {"y": (x - mean) / np.sqrt(var + eps) * gamma + beta, "mean": mean, "var": var}


def backward(
    dy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float = 1e-5
) -> dict[str, Array]:
    axes = tuple(range(x.ndim - 1))
    std = np.sqrt(var + eps)
    xhat = (x - mean) / std
    dbeta, dgamma = dy.sum(axis=axes), (dy * xhat).sum(axis=axes)
    rows = prod(x.shape[:-1])
    dx = gamma / std * (dy - dbeta / rows - xhat * dgamma / rows)
    return {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}


def forward_bound(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> dict[str, Array]:
    rows = x.reshape(-1, x.shape[-1])
    result = forward(x, gamma, beta, eps)
    spread = np.ptp(rows, axis=0)
    mean = abs(rows).max(axis=0) + 24 * spread
    var = 48 * spread**2  # squares are of differences from a row, at most the spread
    std = np.sqrt(result["var"] + eps)
    centred = abs(x - result["mean"]) / std
    y = (mean / std + centred * (8 + var / std**2)) * abs(gamma) + 2 * abs(beta)
    return {"y": y, "mean": mean, "var": var}


def backward_bound(
    dy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float = 1e-5
) -> dict[str, Array]:
    axes = tuple(range(x.ndim - 1))
    std = np.sqrt(var + eps)
    xhat = abs(x - mean) / std
    dbeta, dgamma = abs(dy).sum(axis=axes), (abs(dy) * xhat).sum(axis=axes)
    rows = prod(x.shape[:-1])
    dx = 40 * abs(gamma) / std * (abs(dy) + dbeta / rows + xhat * dgamma / rows)
    return {"dx": dx, "dgamma": 32 * dgamma, "dbeta": 32 * dbeta}


def cost(x: Shape, gamma: Shape, beta: Shape, eps: float = 1e-5) -> tuple[int, int]:
    return 8 * prod(x), 3 * prod(x)


def _case(name: str, x: Shape, **attributes: Any) -> Case:
    return Case(name, {"x": x, "gamma": (x[-1],), "beta": (x[-1],)}, attributes)


CASES = [
    _case("two rows", (2, 1)),
    _case("odd", (5, 7)),
    _case("rows", (100, 70), eps=1e-3),
    _case("channels", (3, 5, 4, 6)),
    _case("one image", (1, 5, 7, 17)),
    _case("several blocks", (7, 33, 31, 5)),
    Case(
        "far from zero",
        {"x": 1000 + np.arange(40.0).reshape(8, 5) % 7, "gamma": (5,), "beta": (5,)},
    ),
]
