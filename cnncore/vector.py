"""Flat vectors of parameters, gradients or statistics, addressed by path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .plan import ALIGNMENT, Entry
from .reference.case import Array
from .shapes import Shape


def aligned_zeros(size: int, dtype: str) -> Array:
    """A vector of zeros that starts at a cache line; never empty in memory."""
    item = np.dtype(dtype).itemsize
    raw = np.zeros(max(size, 1) * item + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + max(size, 1) * item].view(dtype)[: max(size, 1)]


class Layout:
    """Where each path lies in a flat vector. Entries start at cache lines; between them are zeros,
    which counts, norms and files skip."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = {entry.path: entry for entry in entries}
        self.size = max((e.offset + e.length for e in entries), default=0)
        self.count = sum(e.length for e in entries)

    def __contains__(self, path: object) -> bool:
        return path in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def shape(self, path: str) -> Shape:
        return self.entries[path].shape

    def view(self, vector: Array, path: str) -> Array:
        """The parameter at `path` as an array that shares the vector's memory."""
        entry = self.entries[path]
        return vector[entry.offset : entry.offset + entry.length].reshape(entry.shape)


class Vector(np.ndarray[Any, np.dtype[Any]]):
    """A flat array whose parts are also found by path: `vector["0.w"]` is a view."""

    layout: Layout | None

    def __new__(cls, layout: Layout, dtype: str) -> Vector:
        vector = aligned_zeros(layout.size, dtype).view(cls)
        vector.layout = layout
        return vector

    def __array_finalize__(self, source: Any) -> None:
        layout = getattr(source, "layout", None)
        same = layout is not None and self.shape == (max(layout.size, 1),)
        self.layout = layout if same else None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.part(key)
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, str):
            self.part(key)[...] = value
        else:
            super().__setitem__(key, value)

    def __reduce__(self) -> Any:
        if self.layout is None:
            return super().__reduce__()
        return _rebuild, (self.layout, self.dtype.name, np.array(self))

    def part(self, path: str) -> Array:
        if self.layout is None or path not in self.layout:
            known = ", ".join(self.layout or ())
            raise KeyError(f"there is no {path!r}; there are {known}")
        return self.layout.view(self.view(np.ndarray), path)

    def paths(self) -> tuple[str, ...]:
        return tuple(self.layout or ())


def _rebuild(layout: Layout, dtype: str, values: Array) -> Vector:
    vector = Vector(layout, dtype)
    vector[...] = values
    return vector
