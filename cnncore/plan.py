"""A net flattened: tensors, and the ops that read and write them.

A plan is made once for a net, a batch capacity and a purpose. It holds only declarations: no
memory, no addresses. `program` lowers it to the compiled tape, `interpret` runs it with the NumPy
twins, `fuse` rewrites its list of ops. Equal nets share one plan."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from . import _core, reference
from .reference.case import Array
from .shapes import Shape

ITEM_SIZE = {"float32": 4, "float64": 8, "uint8": 1, "uint16": 2, "int64": 8}
ALIGNMENT = 64  # bytes: parameters begin at cache lines

# Stands for the number of examples while shapes are inferred, so that a dimension which only
# happens to equal the capacity is not taken for it.
BATCH = (1 << 40) + 15

# Where a tensor lives. The arena is planned; vectors are the model's or the solver's own; a bound
# tensor is an array of the caller's, put in place before each run.
ARENA, PARAMETERS, GRADIENTS, STATISTICS = "arena", "parameters", "gradients", "statistics"
PREPROCESSING, CONSTANTS, BOUND = "preprocessing", "constants", "bound"


HostCall = Callable[[dict[str, Array], dict[Any, Any]], None]


@dataclass(eq=False)
class Tensor:
    """Shape and place of an array. `batch`: its first dimension is the plan's capacity."""

    name: str
    shape: Shape
    dtype: str
    base: str = ARENA
    offset: int = 0  # bytes from the base; of an arena tensor known after placing
    batch: bool = False
    source: Tensor | None = None  # the same memory under another shape
    frozen: bool = False  # a parameter that is not trained

    @property
    def root(self) -> Tensor:
        return self if self.source is None else self.source.root

    @property
    def size(self) -> int:
        return prod(self.shape) * ITEM_SIZE[self.dtype]


@dataclass(eq=False)
class Op:
    """One plain op, or a fused one that stands for the plain ops in `replaces`.

    A host op has a `call` instead of a kernel: it gets the arrays of its inputs and outputs by name
    and fills the outputs, between two segments of the tape. `reverse` is the call of its backward
    pass, which gets dy and fills the gradients of the inputs. Both get a dict that belongs to the
    run, for what one has to tell the other."""

    op: str
    function: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    attributes: dict[str, Any] = field(default_factory=dict)
    layer: str = ""
    fused: dict[str, int] = field(default_factory=dict)
    replaces: tuple[Op, ...] = ()
    call: HostCall | None = None
    reverse: HostCall | None = None

    @property
    def kernel(self) -> str:
        return f"{self.op}_{self.function}"

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self.inputs | self.outputs

    def plain(self) -> tuple[Op, ...]:
        return self.replaces or (self,)


@dataclass(frozen=True)
class Entry:
    """One parameter or statistic in its flat vector. Offset and length in elements."""

    path: str
    shape: Shape
    offset: int
    fill: Any  # an initialization with draw(seed, path, shape), or a number
    penalized: bool = False

    @property
    def length(self) -> int:
        return prod(self.shape)


@cache
def signature(op: str, function: str) -> tuple[str, ...]:
    """The argument names of a twin."""
    return tuple(inspect.signature(getattr(reference.op(op), function)).parameters)


@cache
def kernel_fields() -> dict[str, dict[str, str]]:
    fields: dict[str, dict[str, str]] = _core.kernels()
    return fields


class Builder:
    """Collects the ops of one forward pass. Layers declare themselves to it."""

    def __init__(
        self, capacity: int, dtype: str, training: bool, frozen: frozenset[str] = frozenset()
    ) -> None:
        self.capacity = capacity
        self.dtype = dtype
        self.training = training
        self.frozen = frozen  # paths of parameters that are not trained
        self.ops: list[Op] = []
        self.late: list[Op] = []  # after the update, when nothing can fail any more
        self.parameters: list[Entry] = []
        self.statistics: list[Entry] = []
        self.scalings: list[Entry] = []  # vectors that the gather op reads
        self.layers: list[tuple[str, str, Tensor]] = []  # path, class name, output
        self.ordinal = 0  # of the current leaf layer in the declaration tree
        self.rectified = False  # whether a ReLU follows before the next weights
        self._path: list[str] = []

    @property
    def path(self) -> str:
        return ".".join(self._path)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    def parameter(self, name: str, shape: Shape, fill: Any, *, penalized: bool = False) -> Tensor:
        return self._entry(self.parameters, PARAMETERS, name, shape, fill, penalized)

    def statistic(self, name: str, shape: Shape, fill: float) -> Tensor:
        return self._entry(self.statistics, STATISTICS, name, shape, fill, False)

    def scaling(self, name: str, length: int) -> Tensor:
        with self.scope(PREPROCESSING):
            return self._entry(self.scalings, PREPROCESSING, name, (length,), 0.0, False)

    def _entry(
        self, entries: list[Entry], base: str, name: str, shape: Shape, fill: Any, penalized: bool
    ) -> Tensor:
        path = f"{self.path}.{name}"
        if any(path == entry.path for entry in entries):
            raise ValueError(f"two layers are both named {self.path!r}")
        step = ALIGNMENT // ITEM_SIZE[self.dtype]
        offset = -(-(entries[-1].offset + entries[-1].length) // step) * step if entries else 0
        entries.append(Entry(path, shape, offset, fill, penalized))
        place = offset * ITEM_SIZE[self.dtype]
        return Tensor(path, shape, self.dtype, base, place, frozen=path in self.frozen)

    def apply(self, op: str, *, late: bool = False, **arguments: Any) -> dict[str, Tensor]:
        """Appends `forward` or `update` of an op; Tensors and attributes by name."""
        module = reference.op(op)
        inputs = {n: a for n, a in arguments.items() if isinstance(a, Tensor)}
        attributes = {
            n: a for n, a in arguments.items() if a is not None and not isinstance(a, Tensor)
        }
        shapes = {n: (BATCH, *t.shape[1:]) if t.batch else t.shape for n, t in inputs.items()}
        inferred = module.infer(**shapes, **attributes)
        function = "forward" if hasattr(module, "forward") else "update"
        outputs = {
            name: inputs.get(name)
            or self.tensor(f"{self.path}.{name}", shape, getattr(module, "DTYPES", {}).get(name))
            for name, shape in inferred.results.items()
        }
        made = Op(op, function, inputs, outputs, inferred.attributes, self.path)
        (self.late if late else self.ops).append(made)
        return outputs

    def tensor(self, name: str, shape: Shape, dtype: str | None = None) -> Tensor:
        batch = shape[:1] == (BATCH,)
        if batch:
            shape = (self.capacity, *shape[1:])
        return Tensor(name, shape, dtype or self.dtype, batch=batch)

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        """The same memory with each example in another shape."""
        return replace(x, shape=(x.shape[0], *shape), source=x)


def backward(ops: Sequence[Op], loss: Tensor, wanted: Sequence[Tensor], dtype: str) -> tuple[
    list[Op], dict[Tensor, Tensor]
]:  # fmt: skip
    """The ops that differentiate `loss`, in reverse, and the gradient of each tensor by its root.

    Gradients are made for parameters and for `wanted` only: below the lowest of them, nothing is.
    A tensor used more than once has its gradients added."""
    needed = {t.root for t in wanted}
    for op in ops:
        if any(
            t.root in needed or (t.base == PARAMETERS and not t.frozen) for t in op.inputs.values()
        ):
            needed.update(t.root for t in op.outputs.values())
    gradients: dict[Tensor, Tensor] = {}
    made: list[Op] = []
    for op in reversed(ops):
        if not _has_backward(op):
            continue
        reached = any(t.root is loss.root or t.root in gradients for t in op.outputs.values())
        if reached:
            _differentiate(op, needed, gradients, made, dtype)
    return made, gradients


def _has_backward(op: Op) -> bool:
    if op.call is not None:
        return op.reverse is not None
    return "backward" in reference.functions(op.op)


def _differentiate(
    op: Op, needed: set[Tensor], gradients: dict[Tensor, Tensor], made: list[Op], dtype: str
) -> None:
    known = op.inputs | op.outputs
    if op.call is None:
        reads, gives = signature(op.op, "backward"), set(kernel_fields()[f"{op.op}_backward"])
    else:
        reads, gives = tuple("d" + n for n in op.outputs), {"d" + n for n in op.inputs}
    inputs = {}
    for name in reads:
        if name in known:
            inputs[name] = known[name]
        elif name[0] == "d" and name[1:] in op.outputs:
            y = op.outputs[name[1:]]
            inputs[name] = replace(gradients[y.root], shape=y.shape, source=gradients[y.root])
    outputs: dict[str, Tensor] = {}
    extra: list[Op] = []
    for name, tensor in op.inputs.items():
        result = "d" + name
        if result not in gives:
            continue
        if tensor.base == PARAMETERS:
            if tensor.frozen:
                continue
            outputs[result] = replace(tensor, name=f"d {tensor.name}", base=GRADIENTS)
        elif tensor.root in needed:
            gradient = Tensor(f"d {tensor.name}", tensor.shape, dtype, batch=tensor.batch)
            outputs[result] = gradient
            earlier = gradients.get(tensor.root)
            if earlier is None:
                gradients[tensor.root] = gradient
            else:
                total = replace(gradient, name=f"{gradient.name} sum")
                same = replace(earlier, shape=tensor.shape, source=earlier)
                extra.append(
                    Op("add", "forward", {"x0": same, "x1": gradient}, {"y": total}, layer=op.layer)
                )
                gradients[tensor.root] = total
    if outputs:
        made.append(
            Op(op.op, "backward", inputs, outputs, op.attributes, op.layer, call=op.reverse)
        )
        made.extend(extra)


@dataclass(eq=False)
class Plan:
    """What a run does: `ops` as they are executed, `plain_ops` as the twins execute them.

    `results` are the float64 scalars that each step hands out; `keep` the tensors that survive
    fusion and whose memory is not used again; `constants` the bytes of constant tensors."""

    ops: list[Op]
    plain_ops: list[Op]
    capacity: int
    dtype: str
    isa: str
    results: dict[str, Tensor]
    keep: tuple[Tensor, ...] = ()
    constants: bytes = b""
    inference: bool = False  # parameters do not change in a run
    named: dict[str, Tensor] = field(default_factory=dict)

    def cost(self) -> tuple[int, int]:
        """(floating-point operations, elements moved) of a full step, by the twins' own counts."""
        costs = [op_cost(op) for op in self.plain_ops]
        return sum(c[0] for c in costs), sum(c[1] for c in costs)

    def __str__(self) -> str:
        lines = [f"plan: capacity {self.capacity}, {self.dtype}, {self.isa}, {len(self.ops)} ops"]
        rows = []
        for i, op in enumerate(self.ops):
            names = " ".join(f"{n}{_shape(t)}" for n, t in op.inputs.items())
            made = " ".join(f"{n}{_shape(t)}" for n, t in op.outputs.items())
            extras = [f"{n}={v}" for n, v in op.attributes.items()] + list(op.fused)
            what = f"{op.op}.{op.function}" if op.call is None else "host"
            rows.append((str(i), op.layer or "-", what, f"{names} -> {made}", " ".join(extras)))
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        for row in rows:
            head = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            lines.append(f"{head}  {row[3]}  {row[4]}".rstrip())
        return "\n".join(lines)


def _shape(tensor: Tensor) -> str:
    dims = ("n", *map(str, tensor.shape[1:])) if tensor.batch else map(str, tensor.shape)
    return f"({','.join(dims)})"


def op_cost(op: Op) -> tuple[int, int]:
    """Of a plain op; a backward pass counts twice its forward pass, once without dx."""
    if op.call is not None:
        return 0, sum(prod(t.shape) for t in op.tensors.values())
    module = reference.op(op.op)
    if op.function == "backward":
        shapes = {n: t.shape for n, t in op.inputs.items() if n[0] != "d"}
        if not set(inspect.signature(module.cost).parameters) >= set(shapes) or "w" not in shapes:
            moved = sum(prod(t.shape) for t in op.tensors.values())
            return moved, moved
        flops, moved = module.cost(**shapes, **op.attributes)
        passes = len(set(op.outputs) & {"dx", "dw"})
        return passes * flops, passes * moved
    shapes = {n: t.shape for n, t in op.inputs.items()}
    if op.op == "gather":
        shapes["n"] = next(iter(op.outputs.values())).shape[0]  # type: ignore[assignment]
    flops, moved = module.cost(**shapes, **op.attributes)
    return flops, moved


def unread(op: Op) -> set[str]:
    """Of a backward pass with weights, what gives a shape alone: w is for dx, and x for dw."""
    if op.function != "backward" or not {"x", "w"} <= set(op.inputs):
        return set()
    return {name for name, result in (("w", "dx"), ("x", "dw")) if result not in op.outputs}


# What a kernel reads twice: it needs a sum over all of it first, unless that is given.
_TWICE = {"batchnorm_forward": {"x"}, "batchnorm_backward": {"dy", "x"}}


class Moved(NamedTuple):
    """Bytes that an op has to move."""

    read: int
    written: int

    @property
    def total(self) -> int:
        return self.read + self.written


def op_bytes(op: Op, given: Mapping[str, Array] | None = None) -> Moved:
    """Bytes that an op as it runs, fused or plain, has to move: each array that it reads or
    writes, once. Of a bound tensor the dtype is that of the array in `given`."""
    fields = op.tensors if op.call is not None else kernel_fields()[op.kernel]
    examples = max((t.shape[0] for t in op.tensors.values() if t.batch), default=1)

    def size(tensor: Tensor) -> int:
        if tensor.base != BOUND:
            return tensor.size
        array = (given or {}).get(tensor.name)
        item = ITEM_SIZE[tensor.dtype] if array is None else array.itemsize
        return examples * prod(tensor.shape[1:]) * item

    twice = set() if op.fused.get("moments_given") else _TWICE.get(op.kernel, set())
    shapes_only = unread(op)
    return Moved(
        sum(
            size(t) * (1 + (name in twice))
            for name, t in op.inputs.items()
            if name in fields and name not in shapes_only
        ),
        sum(size(t) for name, t in op.outputs.items() if name in fields),
    )


def segments(entries: Iterable[Entry], l2: float) -> Array:
    """The update kernels' table: offset, length and l2 of each parameter, as float64."""
    rows = [[e.offset, e.length, l2 if e.penalized else 0.0] for e in entries]
    return np.array(rows, dtype=np.float64)
