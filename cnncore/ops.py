"""Compiled kernels on plain NumPy arrays: `ops.conv2d.forward(x=x, w=w, padding=1)`.

Each op here has the functions of its twin in `cnncore.reference`: the same keywords in, the same
dict of arrays out, computed by the compiled kernel. Arrays are read, never changed; all of them
have one dtype, float32 or float64, but for targets and other arrays that are integers by nature.

`backward` takes dy and whatever it needs of the forward arguments and results by name, ignores
those it does not need, and refuses other names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import _core, levels, reference
from .plan import kernel_fields, signature
from .reference.case import Array
from .shapes import integer

MOST_THREADS = 1024


class Function:
    """One compiled function of an op."""

    def __init__(self, op: str, function: str) -> None:
        self.label = f"{op}.{function}"
        self.module = reference.op(op)
        twin = inspect.signature(getattr(self.module, function)).parameters
        self.needed = {name for name, p in twin.items() if p.default is inspect.Parameter.empty}
        self.infer = self.module.infer_backward if function == "backward" else self.module.infer
        self.accepted = signature(op, function)
        self.known = set(self.accepted)
        if function == "backward":
            forward = signature(op, "forward") + tuple(kernel_fields()[f"{op}_forward"])
            self.known |= {prefix + name for name in forward for prefix in ("", "d")}
        self.kernel = f"{op}_{function}"
        self.fields = kernel_fields()[self.kernel]
        self.dtypes = getattr(self.module, "DTYPES", {})
        self.__doc__ = f"Compiled twin of `cnncore.reference.{self.label}`."

    def __call__(
        self, *, isa: str | None = None, threads: int | None = None, **arguments: Any
    ) -> dict[str, Array]:
        """`isa` and `threads` default to those in force. TypeError for a name or dtype that the
        op does not take, ValueError for a shape or value; both name it."""
        if threads is not None:
            integer("threads", threads, 1, MOST_THREADS)
        return self.compute(arguments, isa, threads)

    def compute(
        self, arguments: Mapping[str, Any], isa: str | None, threads: int | None,
        allocate: Callable[[Any, str], Array] = np.empty,
    ) -> dict[str, Array]:  # fmt: skip
        """The same; results and workspace come from `allocate(shape, dtype)`."""
        arrays, attributes, step = self._sort(arguments)
        dtype = self._dtype(arrays)
        shapes: dict[str, Any] = {name: array.shape for name, array in arrays.items()}
        if "index" in step:
            shapes["n"] = len(step["index"])
        results, canonical = self.infer(**shapes, **attributes)
        outputs = {
            name: allocate(shape, self.dtypes.get(name, dtype))
            for name, shape in results.items()
            if name in self.fields
        }
        for name in outputs.keys() & arrays.keys():
            outputs[name][...] = arrays[name]
        self._run(arrays | outputs, canonical, step, dtype, levels.choose(isa), threads, allocate)
        return outputs

    def _sort(
        self, arguments: Mapping[str, Any]
    ) -> tuple[dict[str, Array], dict[str, Any], dict[str, Any]]:
        unknown = arguments.keys() - self.known
        if unknown:
            raise TypeError(
                f"{self.label} takes no {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(self.accepted)}"
            )
        used = {n: arguments[n] for n in self.accepted if arguments.get(n) is not None}
        missing = [n for n in self.accepted if n in self.needed and n not in used]
        if missing:
            raise TypeError(f"{self.label} needs {', '.join(missing)}")
        step = {n: used.pop(n) for n in getattr(self.module, "STEP", ()) if n in used}
        attributes = {
            n: used.pop(n) for n in list(used) if self.fields.get(n) in ("size", "number")
        }
        return {n: self._array(n, value) for n, value in used.items()}, attributes, step

    def _array(self, name: str, value: Any) -> Array:
        array = np.asarray(value)
        wanted = self.dtypes.get(name)
        allowed = {"any": ("uint8", "float32", "float64"), None: ("float32", "float64")}.get(wanted)
        if allowed is not None:
            if array.dtype.name not in allowed:
                raise TypeError(
                    f"{self.label}: {name} has dtype {array.dtype}, expected {' or '.join(allowed)}"
                )
        elif wanted == "int64" and array.dtype.kind not in "iu":
            raise TypeError(f"{self.label}: {name} has dtype {array.dtype}, expected integers")
        else:
            array = array.astype(wanted, copy=False)
        return np.require(array, array.dtype.newbyteorder("="), ["C", "A"])

    def _dtype(self, arrays: Mapping[str, Array]) -> str:
        dtypes = {n: a.dtype.name for n, a in arrays.items() if n not in self.dtypes}
        if len(set(dtypes.values())) > 1:
            listed = ", ".join(f"{n} {dtype}" for n, dtype in dtypes.items())
            raise TypeError(f"{self.label}: arrays must have one dtype, not {listed}")
        return next(iter(dtypes.values()), "float64")

    def _run(
        self, arrays: dict[str, Array], attributes: dict[str, Any], step: Mapping[str, Any],
        dtype: str, isa: str, threads: int | None, allocate: Callable[[Any, str], Array],
    ) -> None:  # fmt: skip
        """One step of a tape that has this op alone."""
        arrays = {name: array for name, array in arrays.items() if name in self.fields}
        tensors = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
        record = _core.Record(self.kernel, dtype, isa, tensors, attributes)
        places = {name: (i, 0) for i, name in enumerate(arrays)}
        workspace = allocate((record.workspace + 8) // 8, "float64")
        if record.workspace:
            places["workspace"] = (len(arrays), 0)
        index = np.ascontiguousarray(step.get("index", np.zeros(_examples(arrays))), np.int64)
        template = _core.Template([record], [places], [], len(arrays) + 1, len(index))
        bases = [array.ctypes.data for array in (*arrays.values(), workspace)]
        tape = _core.Tape(template, bases, (arrays, workspace))
        _, status, _ = tape.run(
            np.array([len(index)]),
            index,
            np.array([float(step.get("lr", 0))]),
            integer("t", step.get("t", 1), 1, 2**48 - 1),
            integer("seed", step.get("seed", 0), 0, 2**64 - 1),
            np.empty((1, 0)),
            team=_core.team_size() if threads is None else threads,
        )
        if status != "ok":
            raise _ERRORS[status](f"{self.label}: {_MESSAGES[status]}")


def _examples(arrays: Mapping[str, Array]) -> int:
    """Of the batch: what the first argument has, 1 for a scalar."""
    shape = next(iter(arrays.values())).shape
    return shape[0] if shape else 1


_ERRORS: dict[str, type[Exception]] = {
    "index": IndexError,
    "loss": FloatingPointError,
    "gradient": FloatingPointError,
}
_ERRORS = {s: _ERRORS.get(s, ValueError) for s in _core.STATUS}
_MESSAGES = {
    "index": "a row number lies outside the data set",
    "label": "a class index lies outside the classes",
    "input": "the data hold NaN or infinity",
    "one value": "batch normalization needs more than one value per channel in training",
    "loss": "the loss is not finite",
    "gradient": "the gradient is not finite",
}


class CompiledOp:
    """The compiled functions of one op."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.__doc__ = reference.op(name).__doc__
        for function in reference.functions(name):
            setattr(self, function, Function(name, function))

    def __getattr__(self, function: str) -> Function:
        raise AttributeError(f"ops.{self.__name__} has no {function}")


def __getattr__(name: str) -> CompiledOp:
    if name.startswith("_") or name not in reference.names():
        raise AttributeError(f"there is no op {name!r}; there are {', '.join(reference.names())}")
    op = globals()[name] = CompiledOp(name)
    return op


def __dir__() -> list[str]:
    return list(reference.names())
