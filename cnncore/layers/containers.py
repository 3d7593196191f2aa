"""Layers of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..plan import Builder, Tensor
from ..shapes import settle
from .base import Layer, emit_leaf


def as_layers(where: str, layers: Any) -> tuple[Layer, ...]:
    if isinstance(layers, Layer):
        return (layers,)
    if not isinstance(layers, (list, tuple)):
        raise TypeError(f"{where} must be a list of layers, not {type(layers).__name__}")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            kind = layer.__name__ if isinstance(layer, type) else type(layer).__name__
            hint = f"; write {kind}(...)" if isinstance(layer, type) else ""
            raise TypeError(f"{where}[{i}] must be a layer, not {kind}{hint}")
    return tuple(layers)


def emit_all(layers: Sequence[Layer], net: Builder, x: Tensor) -> Tensor:
    """One after the other. Each learns whether a ReLU follows before the next weights."""
    outer = net.rectified
    for i, layer in enumerate(layers):
        following = (after.rectifies for after in layers[i + 1 :])
        net.rectified = next((r for r in following if r is not None), outer)
        with net.scope(layer.name or str(i)):
            x = layer.emit(net, x) if isinstance(layer, Container) else emit_leaf(layer, net, x)
    net.rectified = outer
    return x


class Container(Layer):
    """A layer whose emit emits other layers."""


@dataclass(frozen=True)
class Sequential(Container):
    """Layers one after the other. A layer's path is its name or its position: "0.w", "4.0.w"."""

    layers: Sequence[Layer] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, layers=as_layers("Sequential", self.layers))

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        return emit_all(self.layers, net, x)


@dataclass(frozen=True)
class Residual(Container):
    """y = body(x) + shortcut(x) (He et al. 2016); without a shortcut, y = body(x) + x.

    Paths: "4.0.w" for the body's first layer, "4.shortcut.0.w" for the shortcut's."""

    body: Sequence[Layer] = ()
    shortcut: Sequence[Layer] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, body=as_layers("Residual body", self.body))
        if not self.body:
            raise ValueError("Residual needs a body of at least one layer")
        if self.shortcut is not None:
            settle(self, shortcut=as_layers("Residual shortcut", self.shortcut))

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        y = emit_all(self.body, net, x)
        short = x
        if self.shortcut:
            with net.scope("shortcut"):
                short = emit_all(self.shortcut, net, x)
        if y.shape[1:] != short.shape[1:]:
            raise ValueError(
                f"layer {net.path!r} (Residual): the body gives {y.shape[1:]} an example, "
                f"the shortcut {short.shape[1:]}; they must be equal"
            )
        y = net.apply("add", x0=y, x1=short)["y"]
        net.layers.append((net.path, "Residual", y))
        return y


@dataclass(frozen=True)
class Concat(Container):
    """The branches' outputs side by side, along the channels and in the branches' order: Inception
    (Szegedy et al. 2014), DenseNet (Huang et al. 2016).

    branches: two or more, each a list of layers or one layer, that all read the same input; an
    empty list hands it on as it is. Paths: "4.0.1.w" for the second layer of the first branch."""

    branches: Sequence[Any] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.branches, (list, tuple)):
            kind = type(self.branches).__name__
            raise TypeError(f"Concat must be a list of branches, not {kind}")
        if len(self.branches) < 2:
            raise ValueError(f"Concat needs at least two branches, not {len(self.branches)}")
        each = enumerate(self.branches)
        settle(self, branches=tuple(as_layers(f"Concat branch {i}", b) for i, b in each))

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        parts = []
        for i, branch in enumerate(self.branches):
            with net.scope(str(i)):
                parts.append(emit_all(branch, net, x))
        y = parts[0]
        for i, part in enumerate(parts[1:], 1):
            if part.shape[1:-1] != y.shape[1:-1]:
                raise ValueError(
                    f"layer {net.path!r} (Concat): branch 0 gives {parts[0].shape[1:]} an example, "
                    f"branch {i} {part.shape[1:]}; they must be equal but for the channels"
                )
            y = net.apply("concat", x0=y, x1=part)["y"]
        net.layers.append((net.path, "Concat", y))
        return y
