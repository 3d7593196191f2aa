"""What every layer is: a small frozen declaration that adds its ops to a plan."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from ..plan import BATCH, Builder, Tensor


@dataclass(frozen=True)
class Layer:
    """A declaration. `emit` turns it into ops; parameters live in the model, not here.

    name: the layer's place in paths such as "stage1.w"; its position otherwise."""

    name: str | None = field(default=None, kw_only=True)

    # Whether weights in front of this layer feed a ReLU: yes, no, or None to look further on.
    rectifies: ClassVar[bool | None] = None

    def __post_init__(self) -> None:
        if self.name is not None and not (
            isinstance(self.name, str) and re.fullmatch(r"[\w-]+", self.name)
        ):
            raise ValueError(f"name must consist of letters, digits, _ and -, not {self.name!r}")

    def emit(self, net: Builder, x: Tensor) -> Tensor:
        raise NotImplementedError


def emit_leaf(layer: Layer, net: Builder, x: Tensor) -> Tensor:
    """Emits one layer; errors name it."""
    net.ordinal += 1
    try:
        y = layer.emit(net, x)
    except (ValueError, TypeError) as error:
        kind = type(layer).__name__
        words = str(error).replace(str(BATCH), "n")
        raise type(error)(f"layer {net.path!r} ({kind}): {words}") from None
    net.layers.append((net.path, type(layer).__name__, y))
    return y
