"""A minibatch out of a data set: x = (data[index] * unit - mean) * scale.

unit is 1/255 for uint8 data (an image in [0, 1]) and 1 for floats."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape, expect, expect_rank, integer
from .case import Array, Case, Draw, Inferred

STEP = ("index",)
DTYPES = {"data": "any", "labels": "int64", "target": "int64"}


def infer(
    data: Shape,
    labels: Shape | None = None,
    mean: Shape | None = None,
    scale: Shape | None = None,
    classes: Any = 1,
    n: int = 1,
) -> Inferred:
    """data (N, ...), labels (N,); mean and scale of length 1, of the last axis or of an example."""
    expect_rank("data", data, (2, 3, 4), "(N, ...)")
    for name, shape in (("mean", mean), ("scale", scale)):
        if shape is not None and (len(shape) != 1 or shape[0] not in (1, data[-1], prod(data[1:]))):
            raise ValueError(
                f"{name} has shape {shape}, expected length 1, {data[-1]} or {prod(data[1:])}"
            )
    results: dict[str, Shape] = {"x": (n, *data[1:])}
    if labels is not None:
        expect("labels", labels, data[:1], "(N,)")
        results["target"] = (n,)
    return Inferred(results, {"classes": integer("classes", classes)})


def forward(
    data: Array,
    index: Array,
    labels: Array | None = None,
    mean: Array | None = None,
    scale: Array | None = None,
    classes: int = 1,
) -> dict[str, Array]:
    dtype = np.float64 if mean is None else mean.dtype
    x = data[index].astype(dtype) / (255 if data.dtype == np.uint8 else 1)
    example = x.shape[1:]
    if mean is not None:
        x = x - _per_example(mean, example)
    if scale is not None:
        x = x * _per_example(scale, example)
    return {"x": x} if labels is None else {"x": x, "target": labels[index]}


def _per_example(vector: Array, example: Shape) -> Array:
    return vector.reshape(example) if len(vector) == prod(example) else vector


def forward_bound(
    data: Array,
    index: Array,
    labels: Array | None = None,
    mean: Array | None = None,
    scale: Array | None = None,
    classes: int = 1,
) -> dict[str, Array]:
    magnitude = forward(
        abs(data), index, None, None if mean is None else -abs(mean),
        None if scale is None else abs(scale),
    )["x"]  # fmt: skip
    return {"x": 4 * magnitude, "target": np.zeros(len(index))}


def cost(
    data: Shape,
    labels: Shape | None = None,
    mean: Shape | None = None,
    scale: Shape | None = None,
    classes: int = 1,
    n: int = 1,
) -> tuple[int, int]:
    return 2 * n * prod(data[1:]), 2 * n * prod(data[1:])


_INDEX = {"index": np.array([3, 0, 3, 5, 1])}
_LABELS = np.array([4, 0, 9, 2, 7, 1])
CASES = [
    Case("floats", {"data": (6, 5)}, {}, _INDEX),
    Case(
        "bytes", {"data": Draw((6, 4, 3, 2), "bytes"), "labels": _LABELS}, {"classes": 10}, _INDEX
    ),
    Case("one mean", {"data": Draw((6, 7), "bytes"), "mean": (1,)}, {}, _INDEX),
    Case("channels", {"data": (6, 4, 3, 2), "mean": (2,), "scale": (2,)}, {}, _INDEX),
    Case(
        "mean image",
        {"data": Draw((6, 4, 3, 2), "bytes"), "mean": (24,), "scale": (1,)},
        {},
        _INDEX,
    ),
    Case("one mean of an image", {"data": (6, 5, 7, 3), "mean": (1,), "scale": (3,)}, {}, _INDEX),
    Case("a mean of many channels", {"data": (6, 2, 3, 67), "mean": (67,)}, {}, _INDEX),
    Case("a mean of many features", {"data": (6, 205), "mean": (205,), "scale": (1,)}, {}, _INDEX),
    Case(
        "bytes, labels, a scale image",
        {"data": Draw((6, 209), "bytes"), "labels": _LABELS, "mean": (1,), "scale": (209,)},
        {"classes": 10},
        _INDEX,
    ),
    Case(
        "in parts",
        {"data": (6, 4100), "labels": _LABELS, "mean": (4100,), "scale": (4100,)},
        {"classes": 10},
        _INDEX,
    ),
    Case("bytes in parts", {"data": Draw((6, 4200), "bytes"), "scale": (1,)}, {}, _INDEX),
]
