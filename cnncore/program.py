"""A plan lowered to the compiled tape: memory placed, kernels checked, addresses filled in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core, memory, reference
from .errors import DivergenceError
from .memory import Lifetime
from .plan import ARENA, BOUND, CONSTANTS, Op, Plan, Tensor, kernel_fields
from .reference.case import Array

# A run returns after about this long, so that signals, progress and threads get their turn.
SLICE_SECONDS = 0.05


class Program:
    """A plan with a place for every tensor. Immutable, shared by all who run it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.kernel_ops = [op for op in plan.ops if op.call is None]
        self.records = [_record(op, plan) for op in self.kernel_ops]
        places, workspaces, self.arena_bytes = _place(plan, self.records)
        self.bases = list(
            dict.fromkeys(
                [ARENA, CONSTANTS]
                + [t.base for op in plan.ops for t in op.tensors.values() if t.base != BOUND]
            )
        )
        self.offsets = places
        # A second thread is to meet the first at each kernel: too short a step does not pay for it.
        self.small = seconds_on_one_thread(plan) < min(15e-6 * len(self.kernel_ops), 60e-6)
        addresses = [
            {name: self._address(op.tensors[name]) for name in _fields(op)}
            | ({"workspace": (0, workspaces[i])} if i in workspaces else {})
            for i, op in enumerate(self.kernel_ops)
        ]
        results = [self._address(t) for t in plan.results.values()]
        self.template = _core.Template(
            self.records, addresses, results, len(self.bases), plan.capacity
        )
        self.constants = np.frombuffer(plan.constants, np.uint8).copy()
        self.bound = {
            (name, t.name): i
            for i, op in enumerate(self.kernel_ops)
            for name, t in op.tensors.items()
            if t.base == BOUND
        }
        self.segments = list(_segments(plan.ops))

    def _address(self, tensor: Tensor) -> tuple[int, int] | None:
        if tensor.base == BOUND:
            return None
        return self.bases.index(tensor.base), self.offset(tensor)

    def in_place(self, op: Op) -> bool:
        """Whether a result of the op takes an argument's memory."""
        read, written = (
            {self._address(t) for t in tensors.values() if t.base != BOUND}
            for tensors in (op.inputs, op.outputs)
        )
        return not read.isdisjoint(written)

    def offset(self, tensor: Tensor) -> int:
        """Bytes from the tensor's base."""
        return self.offsets[tensor.root] if tensor.base == ARENA else tensor.offset


def _fields(op: Op) -> list[str]:
    """Tensors the kernel reads or writes; a twin may have more, for their shapes."""
    fields = kernel_fields()[op.kernel]
    return [name for name in op.tensors if name in fields]


def _record(op: Op, plan: Plan) -> Any:
    tensors = {name: (op.tensors[name].shape, op.tensors[name].dtype) for name in _fields(op)}
    try:
        return _core.Record(op.kernel, plan.dtype, plan.isa, tensors, op.attributes | op.fused)
    except ValueError as error:
        raise ValueError(f"layer {op.layer!r}: {error}" if op.layer else str(error)) from None


def _place(plan: Plan, records: Sequence[Any]) -> tuple[dict[Tensor, int], dict[int, int], int]:
    """Offsets of the arena's tensors by root, of workspaces by kernel op, and bytes in all."""
    life: dict[Tensor, list[int]] = {}
    for i, op in enumerate(plan.ops):
        names = op.tensors if op.call is not None else _fields(op)
        for name in names:
            root = op.tensors[name].root
            if root.base == ARENA:
                life.setdefault(root, [i, i])[1] = i
    for tensor in (*plan.keep, *plan.results.values()):
        if tensor.root in life:
            life[tensor.root][1] = len(plan.ops)
    owner = _share_in_place(plan, life)
    owners = [root for root in life if root not in owner]
    blocks = [Lifetime(root.size, *life[root]) for root in owners]
    kernel_index = [i for i, op in enumerate(plan.ops) if op.call is None]
    with_workspace = [k for k, record in enumerate(records) if record.workspace]
    blocks += [
        # One that a run fills once is no one else's memory.
        Lifetime(records[k].workspace, 0, len(plan.ops))
        if records[k].once and plan.inference
        else Lifetime(records[k].workspace, kernel_index[k], kernel_index[k])
        for k in with_workspace
    ]
    offsets, size = memory.place(blocks)
    places = dict(zip(owners, offsets, strict=False))
    for root in owner:
        place = root
        while place in owner:
            place = owner[place]
        places[root] = places[place]
    workspaces = dict(zip(with_workspace, offsets[len(owners) :], strict=True))
    return places, workspaces, size


def _share_in_place(plan: Plan, life: dict[Tensor, list[int]]) -> dict[Tensor, Tensor]:
    """Results that take over the memory of an argument that nobody reads afterwards."""
    owner: dict[Tensor, Tensor] = {}

    def first_owner(root: Tensor) -> Tensor:
        while root in owner:
            root = owner[root]
        return root

    for i, op in enumerate(plan.ops):
        if op.call is not None:
            continue
        for result, argument in getattr(reference.op(op.op), "IN_PLACE", {}).items():
            if result not in op.outputs or argument not in op.inputs:
                continue
            new, old = op.outputs[result].root, first_owner(op.inputs[argument].root)
            if new in life and old in life and life[old][1] == i and new.size == old.size:
                owner[new] = old
                life[old][1] = life[new][1]
    return owner


def _segments(ops: Sequence[Op]) -> Iterator[tuple[int, int] | Op]:
    """Ranges of kernel ops, and the host ops between them."""
    start = count = 0
    for op in ops:
        if op.call is None:
            count += 1
            continue
        if count > start:
            yield start, count
        yield op
        start = count
    if count > start:
        yield start, count


def seconds_on_one_thread(plan: Plan) -> float:
    """Of a full step, roughly: what decides whether a second thread is worth its while."""
    flops, moved = plan.cost()
    return flops / 30e9 + moved * 4 / 20e9


@dataclass
class Batches:
    """The steps of a run: sizes[i] rows of `index` make step i, learning rates lr[i]."""

    sizes: Array
    index: Array
    lr: Array
    first_t: int = 1
    seed: int = 0
    row: int = 0

    def only(self, i: int) -> Batches:
        """Step i alone."""
        start = int(self.sizes[:i].sum())
        index = self.index[start : start + int(self.sizes[i])]
        lr = self.lr[i : i + 1]
        return Batches(
            self.sizes[i : i + 1], index, lr, self.first_t + i, self.seed, self.row + start
        )

    @classmethod
    def one(cls, n: int, t: int, seed: int) -> Batches:
        """One step over all of n rows, without an update."""
        return cls(np.array([n], np.int64), np.arange(n), np.zeros(1), t, seed)

    @classmethod
    def in_order(cls, rows: Array, done: int, capacity: int) -> Batches:
        """What is left of `rows` after the first `done`, in batches of `capacity`: prediction."""
        left = rows[done:]
        whole, rest = divmod(len(left), capacity)
        sizes = np.array([capacity] * whole + [rest] * (rest > 0), np.int64)
        return cls(sizes, left, np.zeros(len(sizes)), row=done)


class Runner:
    """A program in memory of its own. One run at a time; a second at once is a RuntimeError."""

    def __init__(self, program: Program, vectors: Mapping[str, Array]) -> None:
        self.program = program
        self.arena = _core.Arena(program.arena_bytes)
        self.vectors = dict(vectors) | {
            ARENA: np.frombuffer(memoryview(self.arena), np.uint8),
            CONSTANTS: program.constants,
        }
        bases = [self.vectors[base].ctypes.data for base in program.bases]
        self.tape = _core.Tape(program.template, bases, (self.arena, self.vectors))
        self.arrays: Mapping[str, Array] = {}
        self.prefix = ""
        self.memo: dict[Any, Any] = {}  # what host ops keep from forward to backward

    def bind(self, arrays: Mapping[str, Array], prefix: str = "") -> None:
        """Points the plan's bound tensors, by name, at the caller's arrays; `prefix` says in
        messages whose they are."""
        self.prefix = prefix
        for (field, name), record in self.program.bound.items():
            self.tape.bind(record, field, arrays[name], field == "y")
        self.arrays = arrays

    def release(self) -> None:
        self.tape.release()
        self.arrays = {}

    def value(self, tensor: Tensor, n: int | None = None) -> Array:
        """View of a tensor's memory; of a batch tensor the first n examples."""
        offset = self.program.offset(tensor)
        flat = self.vectors[tensor.base].view(np.uint8)[offset : offset + tensor.size]
        array: Array = flat.view(tensor.dtype).reshape(tensor.shape)
        return array[:n] if tensor.batch else array

    def run(self, batches: Batches, *, seconds: float = SLICE_SECONDS) -> Array:
        """Runs steps until all are done or the time is up: (steps done, results) float64.

        Raises ValueError naming the row for bad data or labels, DivergenceError for a loss or
        gradient that is not finite. A step that raises has changed nothing."""
        count = len(batches.sizes)
        results = np.empty((count, len(self.program.plan.results)))
        if len(self.program.segments) == 1:
            return results[: self._run(batches, results, seconds=seconds)]
        deadline = time.monotonic() + seconds
        for i in range(count):
            try:
                self._run_segments(batches.only(i), results[i : i + 1])
            except Exception:
                if i == 0:
                    raise
                return results[:i]  # those steps count; the failed one is the next run's first
            if time.monotonic() > deadline:
                return results[: i + 1]
        return results

    def _run_segments(self, step: Batches, results: Array) -> None:
        """One step of a plan with host ops: the tape up to each, then the op."""
        for segment in self.program.segments:
            if isinstance(segment, Op):
                self._call(segment, int(step.sizes[0]))
            else:
                self._run(step, results, *segment)

    def stepping(
        self, step: Batches, before: str | None = None
    ) -> Iterator[tuple[Op, dict[str, Array]]]:
        """One step, op by op, up to the first op of the name `before`: each op with views of its
        results."""
        results = np.empty((1, len(self.program.plan.results)))
        n, kernel = int(step.sizes[0]), 0
        for op in self.program.plan.ops:
            if op.op == before:
                return
            if op.call is not None:
                self._call(op, n)
            else:
                self._run(step, results, kernel, kernel + 1)
                kernel += 1
            yield op, {name: self.value(t, n) for name, t in op.outputs.items() if t.base != BOUND}

    def op_seconds(self, batches: Batches) -> Array:
        """Runs all steps and returns what each op of the plan took: (steps, ops)."""
        results = np.empty((1, len(self.program.plan.results)))
        seconds = np.empty((len(batches.sizes), len(self.program.plan.ops)))
        for i, row in enumerate(seconds):
            step, at = batches.only(i), 0
            for segment in self.program.segments:
                if isinstance(segment, Op):
                    start = time.perf_counter()
                    self._call(segment, int(step.sizes[0]))
                    row[at] = time.perf_counter() - start
                    at += 1
                else:
                    end = at + segment[1] - segment[0]
                    self._run(step, results, *segment, op_seconds=row[None, at:end])
                    at = end
        return seconds

    @property
    def team(self) -> int:
        """Threads of a run from here: a plan that is too small for more takes one."""
        return 1 if self.program.small else _core.team_now()

    def _run(
        self, batches: Batches, results: Array, first: int = 0, last: int | None = None,
        seconds: float = 0.0, op_seconds: Array | None = None,
    ) -> int:  # fmt: skip
        done, status, op = self.tape.run(
            batches.sizes, batches.index, batches.lr, batches.first_t, batches.seed, results,
            first, last, self.team, seconds, self.program.plan.inference, batches.row, op_seconds,
        )  # fmt: skip
        # Steps before the failed one are done and count: it fails again next time, as the first.
        if status != "ok" and done == 0:
            self._raise(status, self.program.kernel_ops[op], batches.only(done))
        return int(done)

    def _call(self, op: Op, n: int) -> None:
        assert op.call is not None
        arrays = {name: self.value(tensor, n) for name, tensor in op.tensors.items()}
        try:
            op.call(arrays, self.memo)
        except (ValueError, TypeError) as error:
            raise type(error)(f"layer {op.layer!r}: {error}") from error

    def _raise(self, status: str, op: Op, step: Batches) -> None:
        rows = step.index
        where = f"layer {op.layer!r}" if op.layer else op.op
        if status == "label":
            classes = op.attributes["classes"]
            labels = self.arrays["labels"][rows]
            row = rows[np.flatnonzero((labels < 0) | (labels >= classes))[0]]
            raise ValueError(
                f"{self.prefix}y[{row}] is {self.arrays['labels'][row]}, "
                f"expected a class index in 0 .. {classes - 1}"
            )
        if status == "input":
            name = op.inputs["data"].name
            with np.errstate(over="ignore"):
                data = self.arrays[name][rows].astype(self.program.plan.dtype)
            finite = np.isfinite(data).reshape(len(rows), -1).all(axis=1)
            row = rows[np.flatnonzero(~finite)[0]]
            words = {"data": "x", "labels": "y", "weights": "weight"}
            raise ValueError(f"{self.prefix}{words[name]}[{row}] holds NaN or infinity")
        if status == "one value":
            raise ValueError(
                f"{where}: batch normalization needs more than one value per channel in training, "
                f'but this batch is a single example; last_batch="drop" leaves such a rest out'
            )
        if status in ("loss", "gradient"):
            raise DivergenceError(
                f"iteration {step.first_t}: the {status} is not finite, first in "
                f"{self._first_not_finite(step)}; the step was not taken. "
                f"A smaller learning rate may help",
                step.first_t,
            )
        raise IndexError(f"{where}: a row number lies outside the data set")

    def _first_not_finite(self, step: Batches) -> str:
        """The layer and op where a step that the guard refused first had NaN or infinity: the step
        again, op by op. It changes nothing, since the guard comes before all updates."""
        for op, results in self.stepping(step, before="guard"):
            if not all(np.isfinite(array).all() for array in results.values()):
                return f"layer {op.layer!r} ({op.op}.{op.function})" if op.layer else op.op
        return "the sum of all"
