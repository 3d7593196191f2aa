"""Declarations to JSON and back, by a closed registry: a file can name nothing else."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from . import init, losses, preprocessing, updates
from .layers import REGISTRY

_CLASSES: dict[str, Any] = {
    **REGISTRY,
    **{c.__name__: c for c in (init.SmallGaussian, init.LeCun, init.Glorot, init.He)},
    **{type(loss).__name__: type(loss) for loss in losses.NAMES.values()},
    **{c.__name__: c for c in preprocessing.STEPS},
    "L2": updates.L2,
}
_DEEPEST = 32  # containers within containers, in a file


def to_json(value: Any) -> Any:
    """A declaration as lists, dicts and scalars."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value).__name__
        if _CLASSES.get(kind) is not type(value):
            raise ValueError(f"a {kind} cannot be saved: only the library's own layers can")
        given = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": kind} | {n: v for n, v in given.items() if v is not None}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    return value


def from_json(value: Any, depth: int = 0) -> Any:
    """The declaration that `to_json` wrote. ValueError for anything else."""
    if depth > 3 * _DEEPEST:
        raise ValueError("the configuration is nested too deeply")
    if isinstance(value, list):
        return tuple(from_json(v, depth + 1) for v in value)
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise ValueError(f"the configuration names an unknown type {kind!r}")
    cls = _CLASSES[kind]
    known = {f.name for f in fields(cls)}
    arguments = {n: from_json(v, depth + 1) for n, v in value.items() if n != "type"}
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise ValueError(f"{kind} has no argument {', '.join(unknown)}")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from None
