"""Sizes of things: pure functions from shapes and hyperparameters to shapes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import inf, prod
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Padding = tuple[int, int, int, int]

# A bound on every hyperparameter keeps sums and products of a few of them inside 64 bits.
LARGEST = 2**31 - 1


def integer(name: str, value: Any, least: int = 1, largest: int = LARGEST) -> int:
    """`value` as an int; TypeError unless it is an integer, ValueError unless in range."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if not least <= number <= largest:
        raise ValueError(f"{name} must be an integer in {least} .. {largest}, not {number}")
    return number


def number(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """`value` as a float within the interval; TypeError or ValueError otherwise (NaN too)."""
    if isinstance(value, (bool, str, bytes)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        x = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, not {value!r}") from None
    except OverflowError:  # an integer beyond all floats
        x = inf if value > 0 else -inf
    inside = (low < x if open_low else low <= x) and (x < high if open_high else x <= high)
    if not inside:
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise ValueError(f"{name} must lie in {left}{low:g}, {high:g}{right}, not {x!r}")
    return x


def settle(declaration: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass to their checked, plain values while it is being made."""
    for name, value in values.items():
        object.__setattr__(declaration, name, value)


def pair(name: str, value: Any, least: int = 1) -> tuple[int, int]:
    """An integer for both axes, or (vertical, horizontal)."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be one integer or two, not {value!r}")
        return integer(name, value[0], least), integer(name, value[1], least)
    both = integer(name, value, least)
    return both, both


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; TypeError unless it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """`value` if it is one of the allowed words; ValueError otherwise."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, not {value!r}")
    return value


def plain_padding(value: Any) -> Any:
    """Padding as a declaration keeps it: "same", or plain integers in nested tuples."""
    if isinstance(value, str):
        if value != "same":
            raise ValueError(f'padding must be integers or "same", not {value!r}')
        return value
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(map(plain_padding, value))
    return integer("padding", value, 0)


def window_padding(value: Any, size: Sequence[int], stride: Sequence[int], image: Shape) -> Padding:
    """Padding as (top, bottom, left, right).

    `value` is an integer, (vertical, horizontal), ((top, bottom), (left, right)), the four numbers,
    or "same": output size ceil(image / stride), the odd pixel at bottom and right (SAME_UPPER of
    ONNX), which at stride 1 is (size - 1) / 2 on all sides for odd windows."""
    if isinstance(value, str):
        if value != "same":
            raise ValueError(f'padding must be integers or "same", not {value!r}')
        (top, bottom), (left, right) = (
            _same(image[axis], size[axis], stride[axis]) for axis in (0, 1)
        )
        return top, bottom, left, right
    if isinstance(value, (tuple, list)) and len(value) == 4:
        top, bottom, left, right = (integer("padding", v, 0) for v in value)
        return top, bottom, left, right
    if isinstance(value, (tuple, list)) and len(value) == 2:
        (top, bottom), (left, right) = (pair("padding", v, 0) for v in value)
        return top, bottom, left, right
    both = integer("padding", value, 0)
    return both, both, both, both


def _same(image: int, size: int, stride: int) -> tuple[int, int]:
    total = max((-(-image // stride) - 1) * stride + size - image, 0)
    return total // 2, total - total // 2


def window_positions(image: Shape, size: Sequence[int], stride: Sequence[int], p: Padding) -> Shape:
    """(p, q): how often the window fits, rounded down as everywhere in the field."""
    positions = []
    for axis, name in enumerate(("high", "wide")):
        space = image[axis] + p[2 * axis] + p[2 * axis + 1] - size[axis]
        if space < 0:
            raise ValueError(
                f"a window {size[axis]} pixels {name} does not fit an image of "
                f"{image[axis]} with padding {p[2 * axis]} and {p[2 * axis + 1]}"
            )
        positions.append(space // stride[axis] + 1)
    return tuple(positions)


def pooling(x: Shape, size: Any, stride: Any, padding: Any) -> tuple[Shape, dict[str, Any]]:
    """Result shape and canonical attributes of pooling (n, h, w, c); stride None means size.

    Padding is smaller than the window, so that every window holds a pixel of the image."""
    expect_rank("x", x, (4,), "(n, h, w, c)")
    window = pair("size", size)
    steps = window if stride is None else pair("stride", stride)
    border = window_padding(padding, window, steps, x[1:3])
    if max(border[:2]) >= window[0] or max(border[2:]) >= window[1]:
        raise ValueError(f"padding {border} must be smaller than the window {window}")
    y = (x[0], *window_positions(x[1:3], window, steps, border), x[3])
    return y, {"size": window, "stride": steps, "padding": border}


def expect(name: str, shape: Shape, expected: Shape, meaning: str) -> None:
    if tuple(shape) != expected:
        raise ValueError(f"{name} has shape {tuple(shape)}, expected {meaning} = {expected}")


def expect_rank(name: str, shape: Shape, ranks: tuple[int, ...], meaning: str) -> None:
    if len(shape) not in ranks:
        raise ValueError(f"{name} has shape {tuple(shape)}, expected {meaning}")
    if prod(shape) < 1:
        raise ValueError(f"{name} has shape {tuple(shape)}, which holds no element")
