"""The instruction set in use: the best this processor has, or a lower one asked for."""

from __future__ import annotations

import os

from . import _core

VARIABLE = "CNNCORE_ISA"


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


DEFAULT = _from_environment()
