"""Batch normalization with running averages instead of the batch's statistics: at test time, and
in training where the layer is frozen."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, expect_rank, number
from .case import Array, Case, Draw, Inferred


def infer(
    x: Shape, gamma: Shape, beta: Shape, running_mean: Shape, running_var: Shape, eps: Any = 1e-5
) -> Inferred:
    expect_rank("x", x, (2, 4), "(n, d) or (n, h, w, c)")
    vectors = {
        "gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var
    }  # fmt: skip
    for name, shape in vectors.items():
        expect(name, shape, (x[-1],), "(channels of x,)")
    return Inferred({"y": x}, {"eps": number("eps", eps, 0, 1, open_low=True)})


def forward(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, eps: float = 1e-5
) -> dict[str, Array]:
    return {"y": (x - running_mean) / np.sqrt(running_var + eps) * gamma + beta}


def forward_bound(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, eps: float = 1e-5
) -> dict[str, Array]:
    size = (abs(x) + abs(running_mean)) / np.sqrt(running_var + eps)
    return {"y": 6 * (size * abs(gamma) + abs(beta))}


def infer_backward(dy: Shape, gamma: Shape, running_var: Shape, eps: Any = 1e-5) -> Inferred:
    return Inferred({"dx": dy}, infer(dy, gamma, gamma, gamma, running_var, eps).attributes)


def backward(dy: Array, gamma: Array, running_var: Array, eps: float = 1e-5) -> dict[str, Array]:
    return {"dx": dy * gamma / np.sqrt(running_var + eps)}


def backward_bound(
    dy: Array, gamma: Array, running_var: Array, eps: float = 1e-5
) -> dict[str, Array]:
    return {"dx": 4 * backward(abs(dy), abs(gamma), running_var, eps)["dx"]}


def cost(
    x: Shape, gamma: Shape, beta: Shape, running_mean: Shape, running_var: Shape, eps: float = 1e-5
) -> tuple[int, int]:
    return 2 * prod(x), 2 * prod(x)


def _case(name: str, x: Shape) -> Case:
    c = (x[-1],)
    return Case(
        name,
        {"x": x, "gamma": c, "beta": c, "running_mean": c, "running_var": Draw(c, "positive")},
    )


CASES = [_case("one", (1, 1)), _case("odd", (5, 7)), _case("image", (3, 5, 4, 19))]
