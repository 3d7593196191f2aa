"""Read the pickles of CIFAR-10 without unpickling them.

A pickle is a program for a stack machine, and one of its instructions calls what it names. The
machine here has only the instructions that Python 2 writes for a dictionary of numbers, strings,
lists and uint8 arrays (protocol 2, as documented in Python's `pickletools`). It knows three names,
which it never imports or calls: together they spell an array, and are put together by hand.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import DataFormatError

_HEAD = b"\x80\x02"
# A batch of CIFAR-10 takes some 31,000 steps. No step makes more than one value, so that this
# bounds the memory beside that of the file.
_MOST_STEPS = 1 << 17
_LONGEST_NAME = 64


class _Global(Enum):
    RECONSTRUCT = b"numpy.core.multiarray _reconstruct"
    NDARRAY = b"numpy ndarray"
    DTYPE = b"numpy dtype"


class _Dtype:
    """The dtype uint8, complete once its state was set."""

    complete = False


class _Array:
    """An array that gets its value with its state."""

    value: npt.NDArray[np.uint8] | None = None


def read_pickle(source: str, data: bytes | bytearray) -> dict[bytes, Any]:
    """Return the dictionary that a pickle holds; strings are bytes, those of 256 and more views.

    Args:
        source: The name of the file in messages.
        data: All of it. The arrays are views of it.

    Raises:
        DataFormatError: the pickle needs anything but what is described above, or is damaged.
    """
    return _Machine(source, data).run()


def _kind(value: object) -> str:
    return "an array" if isinstance(value, _Array) else f"a value of type {type(value).__name__}"


class _Machine:
    def __init__(self, source: str, data: bytes | bytearray) -> None:
        self._source = source
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> dict[bytes, Any]:
        if self._take(len(_HEAD)) != _HEAD:
            self._at = 0
            self._refuse(f"{bytes(self._data[:16])!r} in place of the start of a pickle")
        for _ in range(_MOST_STEPS):
            opcode = self._take(1)
            if opcode == b".":
                return self._result()
            step = _STEPS.get(opcode)
            if step is None:
                self._refuse(f"the instruction {opcode!r}")
            step(self)
        self._refuse(f"more than {_MOST_STEPS} instructions")

    def _result(self) -> dict[bytes, Any]:
        if self._at != len(self._data):
            self._refuse(f"{len(self._data) - self._at} bytes after its end")
        if len(self._stack) != 1 or self._marks:
            self._refuse(f"{len(self._stack)} values at its end")
        (found,) = self._stack
        if type(found) is not dict:
            self._refuse(f"{_kind(found)} in place of a dictionary")
        return {k: v.value if isinstance(v, _Array) else v for k, v in found.items()}

    def _refuse(self, found: str) -> NoReturn:
        raise DataFormatError(
            f"{self._source}: expected a pickle as CIFAR-10 has it, found {found} (at byte "
            f"{self._at}); nothing in it was executed"
        )

    def _take(self, count: int) -> bytes:
        piece = bytes(self._data[self._at : self._at + count])
        if len(piece) < count:
            self._refuse("its end too early")
        self._at += count
        return piece

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(number)

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            self._refuse("an instruction without its arguments")
        return self._stack.pop()

    def _pop_many(self, count: int) -> tuple[Any, ...]:
        return tuple([self._pop() for _ in range(count)][::-1])

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            self._refuse("an instruction without its mark")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self, kind: type) -> Any:
        """The value on top, which stays there."""
        value = self._pop()
        if type(value) is not kind:
            self._refuse(f"{_kind(value)} in place of a {kind.__name__}")
        self._stack.append(value)
        return value

    def push(self, value: object) -> None:
        self._stack.append(value)

    def push_number(self, form: str) -> None:
        self.push(self._number(form))

    def push_long(self) -> None:
        size = self._number("<B")
        if size > 8:
            self._refuse(f"an integer of {size} bytes")
        self.push(int.from_bytes(self._take(size), "little", signed=True))

    def push_string(self) -> None:
        self.push(self._take(self._number("<B")))

    def push_long_string(self) -> None:
        size = self._number("<i")
        if not 0 <= size <= len(self._data) - self._at:
            self._refuse(f"a string of {size} bytes where {len(self._data) - self._at} are left")
        self.push(memoryview(self._data)[self._at : self._at + size])
        self._at += size

    def push_global(self) -> None:
        line = bytes(self._data[self._at : self._at + _LONGEST_NAME])
        parts = line.split(b"\n", 2)
        name = b" ".join(parts[:2])
        try:
            known = _Global(name if len(parts) == 3 else b"")
        except ValueError:
            self._refuse(f"the global {name.decode('latin-1')!a}")
        self._at += len(name) + 1
        self.push(known)

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def remember(self, form: str) -> None:
        value = self._pop()
        self._memo[self._number(form)] = value
        self.push(value)

    def recall(self, form: str) -> None:
        number = self._number(form)
        if number not in self._memo:
            self._refuse(f"a reference to value {number}, which there is not")
        self.push(self._memo[number])

    def tuple_of(self, count: int) -> None:
        self.push(self._pop_many(count))

    def tuple_to_mark(self) -> None:
        self.push(tuple(self._pop_to_mark()))

    def append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def extend(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def set_item(self) -> None:
        self._set(list(self._pop_many(2)))

    def set_items(self) -> None:
        self._set(self._pop_to_mark())

    def _set(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            self._refuse("a key without a value")
        target = self._top(dict)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is not bytes:
                self._refuse(f"{_kind(key)} in place of a string as a key")
            target[key] = value

    def reduce(self) -> None:
        function, arguments = self._pop_many(2)
        values = arguments if type(arguments) is tuple else ()
        if function is _Global.DTYPE and _plain(values) and len(values) == 3:
            if values != (b"u1", 0, 1):
                self._refuse(f"the dtype {values[0]!r} in place of 'u1'")
            self.push(_Dtype())
        elif function is _Global.RECONSTRUCT and len(values) == 3 and values[0] is _Global.NDARRAY:
            self.push(_Array())
        else:
            self._refuse("a call that makes no array")

    def build(self) -> None:
        target, state = self._pop_many(2)
        if isinstance(target, _Dtype) and type(state) is tuple and _plain(state):
            if state != (3, b"|", None, None, None, -1, -1, 0):
                self._refuse("another dtype than uint8")
            target.complete = True
        elif isinstance(target, _Array) and type(state) is tuple and len(state) == 5:
            target.value = self._make_array(*state)
        else:
            self._refuse(f"a state for {_kind(target)}")
        self.push(target)

    def _make_array(
        self, version: Any, shape: Any, dtype: Any, fortran: Any, raw: Any
    ) -> npt.NDArray[np.uint8]:
        if not (
            type(version) is int
            and version == 1
            and type(shape) is tuple
            and len(shape) <= 4
            and all(type(n) is int and n >= 0 for n in shape)
            and isinstance(dtype, _Dtype)
            and dtype.complete
            and type(fortran) is bool
            and type(raw) in (bytes, memoryview)
        ):
            self._refuse("an array that is not one of uint8")
        if math.prod(shape) != len(raw):
            self._refuse(f"{len(raw)} bytes for an array of shape {shape}")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _plain(values: tuple[Any, ...]) -> bool:
    """Tell whether comparing the values is safe: a nest of tuples could take for ever."""
    return all(type(value) in (int, bool, bytes, type(None)) for value in values)


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push_number("<B"),
    b"M": lambda m: m.push_number("<H"),
    b"J": lambda m: m.push_number("<i"),
    b"\x8a": _Machine.push_long,
    b"U": _Machine.push_string,
    b"T": _Machine.push_long_string,
    b"c": _Machine.push_global,
    b"(": _Machine.mark,
    b"q": lambda m: m.remember("<B"),
    b"r": lambda m: m.remember("<I"),
    b"h": lambda m: m.recall("<B"),
    b"j": lambda m: m.recall("<I"),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": _Machine.tuple_to_mark,
    b"a": _Machine.append,
    b"e": _Machine.extend,
    b"s": _Machine.set_item,
    b"u": _Machine.set_items,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
