"""The compiled module: kernels' names, records, templates and tapes. See src/_core.pyx."""

from collections.abc import Mapping, Sequence
from typing import Any

from .reference.case import Array
from .shapes import Shape

STATUS: tuple[str, ...]

def build_info() -> dict[str, str]: ...
def isas() -> tuple[str, ...]: ...
def compiled_isas() -> tuple[str, ...]: ...
def kernels() -> dict[str, dict[str, str]]: ...
def limits() -> dict[str, int]: ...
def set_threads(requested: int) -> None: ...
def set_quota(quota: int) -> None: ...
def team_size() -> int: ...
def team_now() -> int: ...
def float_control() -> int: ...

class Arena:
    size: int
    address: int
    def __init__(self, size: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Record:
    name: str
    workspace: int
    scratch: int
    once: bool
    def __init__(
        self,
        kernel: str,
        dtype: str,
        isa: str,
        tensors: Mapping[str, tuple[Shape, str]],
        values: Mapping[str, Any],
    ) -> None: ...

class Template:
    records: tuple[Record, ...]
    scratch: int
    base_count: int
    capacity: int
    results: tuple[tuple[int, int], ...]
    def __init__(
        self,
        records: Sequence[Record],
        addresses: Sequence[Mapping[str, tuple[int, int] | None]],
        results: Sequence[tuple[int, int] | None],
        base_count: int,
        capacity: int,
    ) -> None: ...

class Tape:
    template: Template
    busy: bool
    def __init__(self, template: Template, bases: Sequence[int], owners: Any) -> None: ...
    def bind(self, record_index: int, name: str, array: Array, writable: bool = ...) -> None: ...
    def release(self) -> None: ...
    def run(
        self,
        sizes: Array,
        index: Array,
        lr: Array,
        t: int,
        seed: int,
        results: Array,
        first: int = ...,
        last: int | None = ...,
        team: int = ...,
        seconds: float = ...,
        reuse_once: bool = ...,
        row: int = ...,
        op_seconds: Array | None = ...,
    ) -> tuple[int, str, int]: ...
