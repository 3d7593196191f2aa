"""Convolution (cross-correlation) over NHWC images (cs231n, convolutional networks)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from ..shapes import Padding, Shape, expect, expect_rank, pair, window_padding, window_positions
from .case import Array, Case, Draw, Inferred


def infer(
    x: Shape, w: Shape, b: Shape | None = None, stride: Any = 1, padding: Any = 0
) -> Inferred:
    """x (n, h, w, c), filters w (r, s, c, k), b (k,); stride and padding as in `shapes`."""
    expect_rank("x", x, (4,), "(n, h, w, c)")
    expect_rank("w", w, (4,), "(r, s, c, k)")
    expect("w", w, (w[0], w[1], x[3], w[3]), "(r, s, channels of x, k)")
    if b is not None:
        expect("b", b, (w[3],), "(k,)")
    steps = pair("stride", stride)
    border = window_padding(padding, w[:2], steps, x[1:3])
    positions = window_positions(x[1:3], w[:2], steps, border)
    return Inferred({"y": (x[0], *positions, w[3])}, {"stride": steps, "padding": border})


def infer_backward(dy: Shape, x: Shape, w: Shape, stride: Any = 1, padding: Any = 0) -> Inferred:
    results, attributes = infer(x, w, None, stride, padding)
    expect("dy", dy, results["y"], "(n, p, q, k)")
    return Inferred({"dx": x, "dw": w, "db": w[3:]}, attributes)


def _bordered(x: Array, p: Padding) -> Array:
    return np.pad(x, ((0, 0), (p[0], p[1]), (p[2], p[3]), (0, 0)))


def _taps(
    x: Array, w: Shape, y: Shape, stride: Shape
) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """For each filter tap (r, s): the pixels of bordered x that it meets."""
    for r in range(w[0]):
        for s in range(w[1]):
            rows = slice(r, r + stride[0] * y[1], stride[0])
            columns = slice(s, s + stride[1] * y[2], stride[1])
            yield r, s, (slice(None), rows, columns)


def forward(
    x: Array, w: Array, b: Array | None = None, stride: Any = 1, padding: Any = 0
) -> dict[str, Array]:
    results, attributes = infer(x.shape, w.shape, None, stride, padding)
    bordered = _bordered(x, attributes["padding"])
    y = np.zeros(results["y"], dtype=x.dtype)
    for r, s, pixels in _taps(x, w.shape, y.shape, attributes["stride"]):
        y += bordered[pixels] @ w[r, s]
    return {"y": y if b is None else y + b}


def backward(dy: Array, x: Array, w: Array, stride: Any = 1, padding: Any = 0) -> dict[str, Array]:
    _, attributes = infer(x.shape, w.shape, None, stride, padding)
    p = attributes["padding"]
    bordered = _bordered(x, p)
    dbordered, dw = np.zeros_like(bordered), np.zeros_like(w)
    for r, s, pixels in _taps(x, w.shape, dy.shape, attributes["stride"]):
        dbordered[pixels] += dy @ w[r, s].T
        dw[r, s] = np.tensordot(bordered[pixels], dy, axes=((0, 1, 2), (0, 1, 2)))
    dx = dbordered[:, p[0] : p[0] + x.shape[1], p[2] : p[2] + x.shape[2]]
    return {"dx": dx, "dw": dw, "db": dy.sum(axis=(0, 1, 2))}


def forward_bound(
    x: Array, w: Array, b: Array | None = None, stride: Any = 1, padding: Any = 0
) -> dict[str, Array]:
    size = forward(abs(x), abs(w), None if b is None else abs(b), stride, padding)["y"]
    return {"y": (prod(w.shape[:3]) + 2) * size}


def backward_bound(
    dy: Array, x: Array, w: Array, stride: Any = 1, padding: Any = 0
) -> dict[str, Array]:
    size = backward(abs(dy), abs(x), abs(w), stride, padding)
    length = {"dx": w.shape[0] * w.shape[1] * w.shape[3]}
    return {name: (length.get(name, prod(dy.shape[:3])) + 2) * a for name, a in size.items()}


def cost(
    x: Shape, w: Shape, b: Shape | None = None, stride: Any = 1, padding: Any = 0
) -> tuple[int, int]:
    y = infer(x, w, b, stride, padding).results["y"]
    return 2 * prod(y) * prod(w[:3]), prod(x) + prod(w) + prod(y)


def _case(name: str, x: Shape, filters: Shape, bias: bool = True, **attributes: Any) -> Case:
    w = (filters[0], filters[1], x[3], filters[2])
    arrays: dict[str, Any] = {"x": x, "w": w} | ({"b": (w[3],)} if bias else {})
    return Case(name, arrays, attributes)


def _many(
    name: str, x: Shape, filter: tuple[int, int], filters: int = 516, **attributes: Any
) -> Case:
    """Many filters, some more than whole vectors. Most of w is 0: the bound of dx, full sums of as
    many terms, would also allow for mistakes."""
    w = Draw((*filter, x[3], filters), "sparse")
    return Case(name, {"x": x, "w": w, "b": (filters,)}, attributes)


CASES = [
    _case("one pixel", (1, 1, 1, 1), (1, 1, 1)),
    _case("1x1", (2, 4, 3, 5), (1, 1, 6)),
    _case("3x1", (2, 6, 5, 3), (3, 1, 4), padding=(1, 0)),
    _case("3x3 same", (2, 5, 6, 3), (3, 3, 4), padding="same"),
    _case("3x3 no bias", (3, 7, 5, 2), (3, 3, 9), bias=False),
    _case("even filter same", (2, 6, 5, 3), (2, 4, 5), padding="same"),
    _case("5x3 per axis", (2, 9, 8, 2), (5, 3, 3), stride=(2, 1), padding=(2, 1)),
    _case("stride 2 floors", (2, 8, 7, 3), (3, 3, 4), stride=2, padding=1),
    _case("stride 3 beyond the filter", (2, 8, 9, 3), (2, 1, 4), stride=3),
    _case("stride 2 same", (1, 7, 6, 2), (3, 3, 5), stride=2, padding="same"),
    _case("1x1 stride 2", (2, 6, 7, 17), (1, 1, 5), stride=2),
    _case("1x1 strides, many channels", (2, 8, 7, 67), (1, 1, 3), stride=(3, 2)),
    _case("1x1 stride 2, images together", (70, 3, 3, 64), (1, 1, 3), stride=2),
    _case("many parts", (17, 2, 2, 3), (1, 1, 130)),
    _case("unequal borders", (2, 5, 5, 3), (3, 3, 4), padding=((2, 0), (1, 3))),
    _case("border wider than the filter", (1, 3, 4, 2), (2, 2, 3), padding=3),
    _case("filter as large as the image", (4, 5, 6, 3), (5, 6, 7)),
    _case("16 to 16", (2, 9, 11, 16), (3, 3, 16), padding=1),
    _case("several panels", (2, 4, 5, 70), (3, 3, 70), padding=1),
    _case("several panels, few pixels", (2, 4, 5, 19), (3, 3, 80), padding=1),
    _case("several panels, few pixels, strides", (2, 9, 6, 5), (3, 2, 144), stride=(2, 1)),
    _case("several panels, few pixels, 1x1", (1, 3, 4, 70), (1, 1, 96)),
    _case("stride 2, 32 channels", (2, 9, 8, 32), (3, 3, 5), stride=2, padding=1),
    _case("unequal borders, 32 channels", (2, 5, 7, 32), (3, 3, 4), padding=((2, 0), (1, 3))),
    _case("few pixels, many channels", (3, 7, 6, 40), (4, 5, 9)),
    _case("few channels, strides", (2, 11, 13, 3), (5, 7, 4), stride=(2, 3), padding=(4, 6)),
    _case("tall", (1, 70, 3, 2), (7, 3, 33), padding=1),
    _case("a column of pixels, stride 2", (3, 17, 1, 20), (5, 1, 6), stride=2, padding=(2, 0)),
    _case("a column of pixels, few channels", (2, 9, 1, 3), (4, 1, 5), padding=((1, 2), (0, 1))),
    _case("a column outside the image", (2, 5, 1, 3), (2, 1, 4), stride=2, padding=1),
    _case("a column of pixels, many channels", (3, 12, 1, 70), (3, 1, 35), padding=(2, 0)),
    _case("long rows", (1, 1, 150, 520), (1, 3, 33), padding=(0, 2)),
    _case("long rows, many filters", (2, 1, 150, 20), (1, 5, 520), stride=(1, 2), padding=(0, 3)),
    _case("long rows, filters of three", (1, 3, 140, 180), (3, 4, 80)),
    _case("long rows, few filters", (1, 1, 200, 520), (1, 3, 3), padding=(0, 1)),
    _case("long rows, 1x1 stride 2", (1, 1, 301, 520), (1, 1, 35), stride=2),
    _case("a long column, stride 3", (1, 400, 1, 180), (4, 1, 260), stride=3, padding=(5, 0)),
    _case("few filters", (2, 6, 7, 32), (3, 3, 3), padding=1),
    _case("few filters, rows with a tail", (5, 7, 6, 27), (3, 3, 2), stride=2, padding=(1, 2)),
    _case("one filter, tall", (2, 9, 4, 16), (5, 1, 1), padding=(3, 0)),
    _case("eight filters", (2, 6, 7, 35), (3, 3, 8), padding=1),
    _case("few filters, 1x1", (3, 5, 7, 64), (1, 1, 4)),
    _case("few filters, 1x1 stride 2", (3, 5, 7, 64), (1, 1, 2), stride=2),
    _case("filters that fill no vector", (4, 6, 5, 16), (3, 3, 10), padding=1),
    _case("filters that fill no vector, strides", (2, 9, 11, 32), (3, 3, 7), stride=(1, 2)),
    _case("filters that fill no vector, uneven strides", (2, 9, 10, 32), (3, 2, 9), stride=(2, 3)),
    _case("1x1, pixels far apart", (2, 3, 5, 512), (1, 1, 33)),
    _case("one example, many channels", (1, 3, 3, 421), (1, 1, 5)),
    _case("batch in parts", (9, 6, 6, 4), (3, 3, 8), padding=1),
    _case("short rows", (33, 2, 3, 67), (3, 1, 130), padding=(1, 0)),
    _many("many filters", (23, 3, 4, 67), (3, 2), padding=1),
    _many("many filters, more pixels", (2, 31, 8, 64), (2, 3)),
    _many("many filters, an image at a time", (2, 13, 13, 64), (2, 3), filters=1060),
    _many("many filters, strides", (3, 9, 10, 76), (3, 4), stride=(2, 3), padding=(3, 5)),
    _many("many filters, stride beyond them", (2, 7, 8, 65), (2, 1), stride=3),
]
