"""The funnel through which users' arrays enter: checked, contiguous, NHWC, or a clear exception.

Values (finite, labels in range) are checked later, by the op that gathers a batch, in the pass that
reads them anyway."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple

import numpy as np

from .reference.case import Array
from .shapes import Shape, integer, number

LAYOUTS = ("nhwc", "nchw")


class Examples(NamedTuple):
    """Checked examples: x (n, ...), y (n,) class indices or (n, m) real targets, weight (n,)."""

    x: Array
    y: Array
    weight: Array | None = None
    prefix: str = ""  # in messages: "train ", "validation " or nothing

    @property
    def bindings(self) -> dict[str, Array]:
        """By the names of a plan's bound tensors."""
        weights = {} if self.weight is None else {"weights": self.weight[:, None]}
        return {"data": self.x, "labels": self.y} | weights


def input_shape(shape: Any, layout: str) -> Shape:
    """An example's shape as the plan has it: (h, w, c) or (d,)."""
    if layout not in LAYOUTS:
        raise ValueError(f'input_layout must be "nhwc" or "nchw", not {layout!r}')
    values = tuple(np.atleast_1d(np.asarray(shape, object)).tolist())
    if len(values) not in (1, 3) or not all(
        isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= 1 for v in values
    ):
        raise ValueError(
            f"input_shape must be (d,) or (h, w, c), (c, h, w) for nchw, of positive integers, "
            f"not {shape!r}"
        )
    values = tuple(int(v) for v in values)
    if layout == "nchw" and len(values) == 3:
        values = (values[1], values[2], values[0])
    return values


def examples(name: str, x: Any, expected: Shape, layout: str, dtype: str) -> Array:
    """Examples (n, *expected), contiguous, uint8, float32 or float64; a copy only where needed.

    A missing channel axis is accepted where there is one channel."""
    array = _as_array(name, x)
    if array.dtype.kind == "f":
        if array.dtype.itemsize not in (4, 8):
            array = array.astype(dtype)
    elif array.dtype != np.uint8:
        raise TypeError(
            f"{name} has dtype {array.dtype}; expected uint8, which means x / 255, or floats, "
            f"which are taken as they are: x.astype('uint8') for pixels 0 .. 255, "
            f"x.astype('{dtype}') for other numbers"
        )
    given = (expected[2], *expected[:2]) if layout == "nchw" and len(expected) == 3 else expected
    shape = array.shape[1:]
    if array.ndim == 0 or (
        shape != given and not (len(given) == 3 and _channel_missing(shape, expected))
    ):
        raise ValueError(
            f"{name} has shape {array.shape}, expected (n, {', '.join(map(str, given))})"
        )
    if len(array) == 0:
        raise ValueError(f"{name} has shape {array.shape}, which holds no example")
    if shape == given and given != expected:
        array = np.moveaxis(array, 1, -1)
    return _readable(array.reshape(len(array), *expected), array.dtype.newbyteorder("="))


def _channel_missing(shape: Shape, expected: Shape) -> bool:
    return expected[2] == 1 and shape == expected[:2]


def class_labels(name: str, y: Any, count: int, classes: int) -> Array:
    """Class indices (count,) as int64; every integer dtype is taken, nothing else."""
    if y is None:
        raise TypeError(f"{name} is None, expected integer class indices")
    array = _as_array(name, y, numbers=False)
    if array.shape != (count,):
        hint = ""
        if array.shape == (count, 1):
            hint = f": {name.split()[-1]}.ravel()"
        elif array.ndim == 2 and len(array) == count:
            hint = "; one-hot rows become indices with y.argmax(axis=1)"
        raise ValueError(f"{name} has shape {array.shape}, expected ({count},){hint}")
    if array.dtype.kind not in "iu":
        hint = "y.astype(int)"
        if array.dtype.kind == "f":
            hint = "y.astype(int), if these are whole numbers"
        elif array.dtype.kind in "USO":
            hint = "numpy.unique(y, return_inverse=True)[1]"
        raise TypeError(f"{name} has dtype {array.dtype}, expected integer class indices: {hint}")
    labels = _readable(array, np.dtype(np.int64))
    wrong = labels.view(np.uint64) >= classes  # as are negative ones
    if np.count_nonzero(wrong):
        row = np.flatnonzero(wrong)[0]
        raise ValueError(
            f"{name}[{row}] is {array[row]}, expected a class index in 0 .. {classes - 1}"
        )
    return labels


def real_targets(name: str, y: Any, count: int, outputs: int, dtype: str) -> Array:
    """Real targets (count, outputs) in the model's dtype; (count,) is taken for one output."""
    array = _as_array(name, y)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected numbers")
    if outputs == 1 and array.shape == (count,):
        array = array[:, None]
    if array.shape != (count, outputs):
        raise ValueError(f"{name} has shape {array.shape}, expected ({count}, {outputs})")
    return _finite(name, _readable(array, np.dtype(dtype)))


def example_weights(name: str, weight: Any, count: int, dtype: str) -> Array:
    """Weights (count,) of examples, finite and not negative, in the model's dtype."""
    array = _as_array(name, weight)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected numbers")
    if array.shape != (count,):
        raise ValueError(f"{name} has shape {array.shape}, expected ({count},)")
    if (array < 0).any():
        row = np.flatnonzero(array < 0)[0]
        raise ValueError(f"{name}[{row}] is {array[row]}, expected a weight of at least 0")
    return _finite(name, _readable(array, np.dtype(dtype)))


def class_weights(name: str, class_weight: Any, y: Array, classes: int) -> Array:
    """The weight of each class, float64: "balanced" makes every class of y weigh the same, n /
    (classes present * count); a dict gives weights by class, 1 for those it does not name."""
    weights = np.ones(classes)
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = np.bincount(y, minlength=classes)
        present = counts > 0
        weights[present] = len(y) / (present.sum() * counts[present])
        return weights
    if not isinstance(class_weight, Mapping):
        raise ValueError(f'{name} must be None, "balanced" or a dict, not {class_weight!r}')
    for label, weight in class_weight.items():
        at = integer(f"a class of {name}", label, 0, classes - 1)
        weights[at] = number(f"{name}[{label!r}]", weight, 0, inf, open_high=True)
    return weights


def _finite(name: str, array: Array) -> Array:
    if not np.isfinite(array).all():
        row = np.argwhere(~np.isfinite(array))[0][0]
        raise ValueError(f"{name}[{row}] holds NaN or infinity")
    return array


def _readable(array: Array, dtype: np.dtype[Any]) -> Array:
    """The array as kernels read it, contiguous and aligned; a copy only where it is not."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.require(array, dtype, ["C", "A"])


def _as_array(name: str, value: Any, numbers: bool = True) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not an array: {error}") from None
    if numbers and array.dtype.kind in "OSUmMVc":
        raise TypeError(f"{name} has dtype {array.dtype}, expected numbers")
    return array
