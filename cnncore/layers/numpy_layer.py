"""A user's own layer, in NumPy, inside a compiled net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import init
from ..plan import Builder, Op, Tensor
from ..reference.case import Array
from ..shapes import Shape, integer, settle
from .base import Layer

Memo = dict[Any, Any]


@dataclass(frozen=True)
class NumpyLayer(Layer):
    """The course's form of a layer, as it stands: `forward(x, w, ...)` returns (out, cache) and
    `backward(dout, cache)` returns (dx, dw, ...), or dx alone where there are no parameters.

    params: shapes of the parameters by name, in the order of the arguments; those of two or more
    dimensions are drawn as other weights are and penalized, the others start at 0. layout: "nhwc"
    or "nchw", how images are given to the functions and expected from them. The functions get
    arrays of their own, (n, ...) in the model's dtype, at training and at test time alike. A model
    with such a layer cannot be saved to a file, since a file names no code: save `model.state()`.

    Source: cs231n assignments 1 and 2 (`layers.py`)."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    params: Any = field(default_factory=dict)
    layout: str = "nhwc"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.forward) or not callable(self.backward):
            raise TypeError("forward and backward must be functions")
        if self.layout not in ("nhwc", "nchw"):
            raise ValueError(f'layout must be "nhwc" or "nchw", not {self.layout!r}')
        pairs = self.params.items() if isinstance(self.params, Mapping) else self.params
        shapes = tuple((name, _shape(name, shape)) for name, shape in pairs)
        settle(self, params=shapes)

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        weights = {
            name: net.parameter(name, shape, _fill(net, shape), penalized=len(shape) > 1)
            for name, shape in self.params
        }
        y = net.tensor(f"{net.path}.y", (x.shape[0], *self._output(x)))
        y.batch = True
        names = tuple(weights)

        def call(arrays: dict[str, Array], memo: Memo) -> None:
            given = [self._to_user(arrays["x"]), *(arrays[name].copy() for name in names)]
            out, memo[net_path] = _pair(self.forward(*given))
            arrays["y"][...] = self._from_user("forward", out, arrays["y"].shape)

        def reverse(arrays: dict[str, Array], memo: Memo) -> None:
            found = self.backward(self._to_user(arrays["dy"]), memo.pop(net_path))
            gradients = found if isinstance(found, tuple) else (found,)
            if len(gradients) != 1 + len(names):
                raise ValueError(
                    f"backward returned {len(gradients)} arrays, expected "
                    f"{', '.join(['dx', *('d' + name for name in names)])}"
                )
            if "dx" in arrays:
                arrays["dx"][...] = self._from_user("backward", gradients[0], arrays["dx"].shape)
            for name, gradient in zip(names, gradients[1:], strict=True):
                if "d" + name in arrays:
                    _expect("backward", "d" + name, gradient, arrays["d" + name].shape)
                    arrays["d" + name][...] = gradient

        net_path = net.path
        inputs = {"x": x, **weights}
        net.ops.append(
            Op("host", "forward", inputs, {"y": y}, layer=net.path, call=call, reverse=reverse)
        )
        return y

    def _output(self, x: Tensor) -> Shape:
        """The shape of one example's result, by a trial with two random ones."""
        random = np.random.RandomState(0)
        trial = self._to_user(random.standard_normal((2, *x.shape[1:])).astype(x.dtype))
        weights = [random.standard_normal(shape).astype(x.dtype) for _, shape in self.params]
        out = np.asarray(_pair(self.forward(trial, *weights))[0])
        if out.ndim < 2 or len(out) != 2:
            raise ValueError(f"forward made {out.shape} of (2, ...), expected (2, ...)")
        shape = out.shape[1:]
        return (*shape[1:], shape[0]) if self._images(out) else shape

    def _images(self, array: Array) -> bool:
        return self.layout == "nchw" and array.ndim == 4

    def _to_user(self, array: Array) -> Array:
        moved = np.moveaxis(array, -1, 1) if self._images(array) else array
        return np.array(moved, order="C")

    def _from_user(self, function: str, value: Any, expected: Shape) -> Array:
        array = np.asarray(value)
        array = np.moveaxis(array, 1, -1) if self._images(array) else array
        _expect(function, "its result", array, expected)
        return array


def _shape(name: Any, shape: Any) -> Shape:
    if not isinstance(name, str) or not name.isidentifier() or name in ("x", "y"):
        raise ValueError(f"a parameter cannot be named {name!r}")
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    return tuple(integer(f"the shape of {name}", size) for size in sizes)


def _pair(returned: Any) -> tuple[Any, Any]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError("forward must return (out, cache)")
    return returned[0], returned[1]


def _expect(function: str, name: str, value: Any, expected: Shape) -> None:
    if np.shape(value) != expected:
        raise ValueError(f"{function}: {name} has shape {np.shape(value)}, expected {expected}")


def _fill(net: Builder, shape: Shape) -> Any:
    return init.resolve(None, net.rectified) if len(shape) > 1 else 0.0
