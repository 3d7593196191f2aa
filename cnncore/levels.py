"""The instruction set in use: the best this processor has, or a lower one asked for."""

from __future__ import annotations

import os

from . import _core
from .shapes import one_of

VARIABLE = "CNNCORE_ISA"
PRECISION_VARIABLE = "CNNCORE_PRECISION"
PRECISIONS = ("fast", "exact")


def _from_environment() -> str:
    best: str = _core.isas()[-1]
    wanted = os.environ.get(VARIABLE, "")
    return choose(wanted) if wanted else best


def available() -> tuple[str, ...]:
    """Instruction sets that this build and this processor have, the fastest last."""
    found: tuple[str, ...] = _core.isas()
    return found


def choose(isa: str | None) -> str:
    """`isa` if it is available; the default for None. ValueError otherwise."""
    if isa is None:
        return DEFAULT
    if isa not in available():
        known = (
            "compiled in but not on this processor" if isa in _core.compiled_isas() else "unknown"
        )
        raise ValueError(
            f"instruction set {isa!r} is {known}; {VARIABLE} and isa= take {', '.join(available())}"
        )
    return isa


def precision(wanted: str | None) -> str:
    """`wanted`, or the environment's, or "fast". ValueError for any other word."""
    if wanted is None:
        given = os.environ.get(PRECISION_VARIABLE, "")
        return one_of(PRECISION_VARIABLE, given, PRECISIONS) if given else "fast"
    return one_of("precision", wanted, PRECISIONS)


DEFAULT = _from_environment()
