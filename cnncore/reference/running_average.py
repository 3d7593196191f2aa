"""Running averages of batch statistics: running = momentum running + (1 - momentum) value."""

from __future__ import annotations

from math import prod
from typing import Any

from ..shapes import Shape, expect, expect_rank, number
from .case import Array, Case, Inferred


def infer(running: Shape, value: Shape, momentum: Any = 0.9) -> Inferred:
    expect_rank("running", running, (1,), "(c,)")
    expect("value", value, running, "the shape of running")
    return Inferred(
        {"running": running}, {"momentum": number("momentum", momentum, 0, 1, open_high=True)}
    )


def update(running: Array, value: Array, momentum: float = 0.9) -> dict[str, Array]:
    return {"running": momentum * running + (1 - momentum) * value}


def update_bound(running: Array, value: Array, momentum: float = 0.9) -> dict[str, Array]:
    return {"running": 4 * update(abs(running), abs(value), momentum)["running"]}


def cost(running: Shape, value: Shape, momentum: float = 0.9) -> tuple[int, int]:
    return 3 * prod(running), 3 * prod(running)


CASES = [
    Case("odd", {"running": (7,), "value": (7,)}),
    Case("wide", {"running": (130,), "value": (130,)}, {"momentum": 0.99}),
]
